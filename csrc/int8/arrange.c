/* An order of a block's expanded channels that makes most quads fast.
 *
 * A quad is fast if its sums fit in 16 bits, and wide otherwise. For the projection this depends on which expanded
 * channels are adjacent; for the expansion, on which channels share a panel. So channels are first paired into couples
 * whose weights fit in every column of the projection. Then couples that make the same quads of the expansion wide are
 * put into one panel.
 *
 * In a per-channel file of trained weights, this reduces wide quads from 50 to 6 % in projections and from 92 to 55 %
 * in expansions; in Google's file, from 4 to 2 % and from 8 to 6 %. Both searches are greedy and short, because they
 * are part of loading. */
#include "int8/arrange.h"

#include <stdlib.h>
#include <string.h>

#include "int8/pack_pairs.h"

/* The number of candidates tried for a couple, and for a place in a panel. */
enum { PARTNERS = 8, NEIGHBOURS = 32 };

enum { KEYS = 256 };

static int bits(uint64_t x) {
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (int)(x * 0x0101010101010101u >> 56);
}

/* A stable sort by `key`, the smallest first. Keys are below KEYS. */
static void sort_by_key(const fm_int8_couple *from, int count, fm_int8_couple *to) {
    int starts[KEYS + 1] = {0};
    for (int i = 0; i < count; i++) starts[from[i].key + 1]++;
    for (int key = 0; key < KEYS; key++) starts[key + 1] += starts[key];
    for (int i = 0; i < count; i++) to[starts[from[i].key]++] = from[i];
}

/* A sort key that is smaller the more weights of a row exceed half of a couple's limit. */
static int ease(const uint8_t *row, int columns, int zero, int pair_max) {
    int large = 0;
    for (int c = 0; c < columns; c++) large += abs(row[c] - zero) > pair_max / 2;
    return KEYS - 1 - fm_min(large, KEYS - 1);
}

/* Finds `wide` of each channel, eight quads of the expansion at a time. `marks` is a buffer of one byte per channel. */
static void find_wide(const fm_layer *expand, const fm_int8_layer *weights, int pair_max, uint8_t *marks,
                      fm_int8_couple *couples) {
    const int channels = expand->out_channels, inputs = expand->in_channels;
    for (int first = 0; first < inputs; first += 32) {
        memset(marks, 0, (size_t)channels);
        for (int k = first; k < fm_min(inputs, first + 32); k += 2) {
            const uint8_t *row = weights->kernel + (size_t)k * (size_t)channels, bit = (uint8_t)(1 << k / 4 % 8);
            fm_int8_mark_misfits(row, row + channels, channels, (uint8_t)weights->kernel_zero, pair_max, bit, marks);
        }
        for (int c = 0; c < channels; c++) couples[c].wide |= (uint64_t)marks[c] << first / 4 % 64;
    }
}

/* The partner of couples[first] among the later couples before `end`: the easiest that fits in every column or, of the
 * first PARTNERS candidates, the one that fits in most columns. */
static int partner_of(const fm_int8_couple *couples, int first, int end, const uint8_t *kernel, int columns,
                      uint8_t zero, int pair_max) {
    const uint8_t *row = kernel + (size_t)couples[first].channels[0] * (size_t)columns;
    int best = -1, least = columns + 1;
    for (int k = end - 1, tries = 0; k > first && tries < PARTNERS && least > 0; k--) {
        if (couples[k].channels[0] < 0) continue;
        const uint8_t *other = kernel + (size_t)couples[k].channels[0] * (size_t)columns;
        tries++;
        const int misfits = fm_int8_pair_misfits(row, other, columns, zero, pair_max);
        if (misfits >= least) continue;
        least = misfits;
        best = k;
    }
    return best;
}

/* couples[0 .. count) of one channel each, the hardest first -> count / 2 couples of two channels. */
static void couple_channels(const uint8_t *kernel, int columns, int zero, int pair_max, int count,
                            fm_int8_couple *couples) {
    for (int i = 0, end = count, made = 0; i < end; i++) {
        fm_int8_couple couple = couples[i];
        if (couple.channels[0] < 0) continue;
        while (couples[end - 1].channels[0] < 0) end--;
        fm_int8_couple *partner = &couples[partner_of(couples, i, end, kernel, columns, (uint8_t)zero, pair_max)];
        couple.wide |= partner->wide;
        couple.key = bits(couple.wide);
        couple.channels[1] = partner->channels[0];
        partner->channels[0] = -1; /* it is taken */
        couples[made++] = couple;
    }
}

/* Fills panel after panel. Each begins with the couple that makes the fewest quads wide, and continues with the couples
 * that add the fewest wide quads. */
static void fill_panels(const fm_int8_kernels *kernels, int channels, fm_int8_couple *couples, int16_t *order) {
    const int count = channels / 2, vecs = (channels + kernels->lanes - 1) / kernels->lanes;
    int at = 0;
    for (int p = 0, panels = fm_int8_panels(kernels, vecs); p < panels; p++) {
        const int stop = fm_min(count, fm_int8_panel_start(kernels, vecs, p + 1) / 2);
        for (uint64_t wide = 0; at < stop; at++) {
            int best = at, least = 65;
            for (int k = at; k < fm_min(count, at + NEIGHBOURS) && least > 0; k++) {
                const int more = bits(couples[k].wide & ~wide);
                if (more < least) best = k;
                least = fm_min(more, least);
            }
            const fm_int8_couple chosen = couples[best];
            memmove(couples + at + 1, couples + at, sizeof chosen * (size_t)(best - at));
            wide |= chosen.wide;
            order[2 * at] = chosen.channels[0];
            order[2 * at + 1] = chosen.channels[1];
        }
    }
}

void fm_int8_arrange(const fm_int8_kernels *kernels, const fm_layer *expand, const fm_int8_layer *expand_weights,
                     const fm_layer *project, const fm_int8_layer *project_weights, fm_int8_couple *couples,
                     int16_t *order) {
    const int channels = project->in_channels, columns = project->out_channels, zero = project_weights->kernel_zero;
    const uint8_t *kernel = project_weights->kernel;
    fm_int8_couple *sorted = couples + channels;
    for (int c = 0; c < channels; c++) {
        const int key = ease(kernel + (size_t)c * (size_t)columns, columns, zero, kernels->pair_max);
        couples[c] = (fm_int8_couple){.key = key, .channels = {(int16_t)c, -1}};
    }
    if (expand->kind == FM_POINTWISE) {
        find_wide(expand, expand_weights, kernels->pair_max, (uint8_t *)order, couples); /* order is still unused */
    }
    sort_by_key(couples, channels, sorted);
    couple_channels(kernel, columns, zero, kernels->pair_max, channels, sorted);
    sort_by_key(sorted, channels / 2, couples);
    fill_panels(kernels, channels, couples, order);
}

/* ---- weights and maps ------------------------------------------------------------------------------------- */

fm_int8_layer fm_int8_arranged_columns(const fm_int8_layer *weights, int rows, int columns, const int16_t *order,
                                       char *buffer) {
    int32_t *bias = (int32_t *)(void *)buffer;
    float *scale = (float *)(void *)(bias + columns);
    uint8_t *kernel = (uint8_t *)(scale + columns);
    for (int c = 0; c < columns; c++) {
        bias[c] = weights->bias[order[c]];
        scale[c] = weights->scale[order[c]];
    }
    for (int k = 0; k < rows; k++) {
        const uint8_t *from = weights->kernel + (size_t)k * (size_t)columns;
        for (int c = 0; c < columns; c++) kernel[k * columns + c] = from[order[c]];
    }
    fm_int8_layer arranged = *weights;
    arranged.kernel = kernel;
    arranged.bias = bias;
    arranged.scale = scale;
    return arranged;
}

fm_int8_layer fm_int8_arranged_rows(const fm_int8_layer *weights, int rows, int columns, const int16_t *order,
                                    char *buffer) {
    for (int k = 0; k < rows; k++) {
        memcpy(buffer + k * columns, weights->kernel + (size_t)order[k] * (size_t)columns, (size_t)columns);
    }
    fm_int8_layer arranged = *weights;
    arranged.kernel = (const uint8_t *)buffer;
    return arranged;
}

void fm_int8_restore(uint8_t *map, size_t pixels, int channels, const int16_t *order) {
    uint8_t pixel[4 * FM_INT8_MAX_STEPS];
    for (; pixels > 0; pixels--, map += channels) {
        memcpy(pixel, map, (size_t)channels);
        for (int c = 0; c < channels; c++) map[order[c]] = pixel[c];
    }
}
