#include "int8/pack.h"

#include <string.h>

enum { ALIGN = 64, QUAD = 4 };

void *fm_int8_take(fm_int8_store *store, size_t bytes) {
    void *found = store->block ? store->block + store->used : NULL;
    store->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return found;
}

/* ---- quads ------------------------------------------------------------------------------------------------ */

/* Bytes that the weights of one quad take for one output. */
static int quad_bytes(const fm_int8_kernels *kernels) { return QUAD * kernels->bytes; }

/* Puts weight `t` of a quad for column `column` of `columns`. */
static void put_weight(const fm_int8_kernels *kernels, char *step, int columns, int column, int t, int value) {
    const int parts = kernels->parts, each = QUAD / parts;
    const int at = (t % parts * columns + column) * each + t / parts;
    if (kernels->bytes == 1) {
        ((int8_t *)step)[at] = (int8_t)value;
    } else {
        const int16_t wide = (int16_t)value;
        memcpy(step + 2 * at, &wide, sizeof wide);
    }
}

/* What of a weight, from -255 to 255, goes to set `set`: signed bytes need up to three that add up. */
static int share_of(const fm_int8_kernels *kernels, int value, int set) {
    for (int part = 0; kernels->bytes == 1; set--, value -= part) {
        part = value < -128 ? -128 : value > 127 ? 127 : value;
        if (set == 0) return part;
    }
    return set == 0 ? value : 0;
}

/* How many sets of signed bytes a layer needs. */
static int sets_of(const fm_int8_kernels *kernels, const uint8_t *kernel, size_t count, int zero) {
    int least = 255, most = 0, sets = 1;
    for (size_t i = 0; i < count; i++) {
        least = kernel[i] < least ? kernel[i] : least;
        most = kernel[i] > most ? kernel[i] : most;
    }
    while (share_of(kernels, least - zero, sets) || share_of(kernels, most - zero, sets)) sets++;
    return sets;
}

/* ---- sums and outputs ------------------------------------------------------------------------------------- */

/* The bias with the zero point of the input and what the kernels take from each byte, modulo 2^32. `total` is
 * the sum of the channel's weights. */
static int32_t full_bias(const fm_int8_kernels *kernels, const fm_int8_layer *weights, int channel, int total,
                         int plain) {
    const uint32_t moved = (uint32_t)((kernels->x_offset - weights->in_zero) * total);
    const uint32_t magic = kernels->magic && plain ? FM_INT8_MAGIC : 0;
    return (int32_t)((uint32_t)weights->bias[channel] + moved + magic);
}

static float offset_of(float scale) { return -8388608.0f * scale; }

/* See fm_int8_output. No sum of `depth` products is larger than 255 * 255 * depth. Below 2^26, read as a float as
 * above, it is at most 2^31; from 2^23 on it must saturate. */
static fm_int8_output output_of(const fm_int8_layer *weights, int columns, int depth) {
    fm_int8_output output = {weights->out_zero, weights->low, weights->high, 0};
    output.plain = output.zero == 0 && output.low == 0 && output.high == 255;
    for (int c = 0; c < columns; c++) {
        const double size = weights->bias[c] < 0 ? -(double)weights->bias[c] : weights->bias[c];
        const float scale = weights->scale[c];
        if (size + 65025.0 * depth >= 67108864.0 || scale < 3.05e-5f || scale > 0.9f) output.plain = 0;
    }
    return output;
}

/* ---- convolutions ----------------------------------------------------------------------------------------- */

/* Where a convolution's quads stand, and which rows of the kernel, [rows][columns], they meet. */
typedef struct quad_map {
    int steps, row_bytes, first_conv;
} quad_map;

static int quad_offset(const quad_map *map, int step) {
    return map->first_conv ? step / 3 * map->row_bytes + step % 3 * QUAD : step * QUAD;
}

/* The first convolution's three rows of nine bytes end within a quad; -1 is a byte with no weight. */
static int quad_row(const quad_map *map, int step, int t) {
    if (!map->first_conv) return step * QUAD + t;
    const int tap = step % 3 * QUAD + t;
    return tap < 9 ? step / 3 * 9 + tap : -1;
}

/* A step of a panel, of one set. Returns whether any weight is not 0. */
static int fill_step(const fm_int8_kernels *kernels, const quad_map *map, const fm_int8_layer *weights, int all,
                     const fm_int8_panel *panel, int step, int set, char *target) {
    const int columns = panel->vecs * kernels->lanes, real = fm_least(columns, all - panel->start);
    int any = 0;
    if (target) memset(target, 0, (size_t)(columns * quad_bytes(kernels)));
    for (int t = 0; t < QUAD; t++) {
        const int row = quad_row(map, step, t);
        if (row < 0) continue;
        const uint8_t *source = weights->kernel + (size_t)row * (size_t)all + panel->start;
        for (int c = 0; c < real; c++) {
            const int value = share_of(kernels, source[c] - weights->kernel_zero, set);
            any |= value;
            if (target) put_weight(kernels, target, columns, c, t, value);
        }
    }
    return any != 0;
}

/* The same where every weight fits its bytes and every byte of the quad has one, which is nearly always: whole rows at
 * a time, in loops that compilers turn into vectors. */
static void fill_step_fast(const fm_int8_kernels *kernels, const uint8_t *rows, size_t all, int real, int zero,
                           char *target, int columns) {
    const uint8_t *r[QUAD] = {rows, rows + all, rows + 2 * all, rows + 3 * all};
    const int parts = kernels->parts;
    if (real < columns) memset(target, 0, (size_t)(columns * quad_bytes(kernels)));
    if (kernels->bytes == 1) {
        int8_t *to = (int8_t *)target;
        for (int c = 0; c < real; c++) {
            for (int t = 0; t < QUAD; t++) to[QUAD * c + t] = (int8_t)(r[t][c] - zero);
        }
        return;
    }
    for (int part = 0; part < parts; part++) {
        int16_t *to = (int16_t *)(void *)target + part * columns * QUAD / parts;
        for (int c = 0; parts == 2 && c < real; c++) {
            to[2 * c] = (int16_t)(r[part][c] - zero);
            to[2 * c + 1] = (int16_t)(r[part + 2][c] - zero);
        }
        for (int c = 0; parts == QUAD && c < real; c++) to[c] = (int16_t)(r[part][c] - zero);
    }
}

/* Every quad once, and those again of which signed bytes could not hold all. */
static void pack_panel(fm_int8_store *store, const fm_int8_kernels *kernels, const quad_map *map,
                       const fm_int8_layer *weights, int all, int sets, const int32_t *offsets, fm_int8_panel *panel) {
    const size_t step_bytes = (size_t)(panel->vecs * kernels->lanes * quad_bytes(kernels));
    int more = 0;
    for (int set = 1; set < sets; set++) {
        for (int step = 0; step < map->steps; step++) {
            more += fill_step(kernels, map, weights, all, panel, step, set, NULL);
        }
    }
    panel->steps = map->steps + more;
    int32_t *own = more ? fm_int8_take(store, sizeof(int32_t) * (size_t)panel->steps) : NULL;
    char *packed = fm_int8_take(store, step_bytes * (size_t)panel->steps);
    panel->offsets = more ? own : offsets;
    panel->weights = packed;
    if (!store->block) return;
    int at = 0;
    for (int set = 0; set < sets; set++) {
        for (int step = 0; step < map->steps; step++) {
            if (sets == 1 && !map->first_conv) {
                const uint8_t *rows = weights->kernel + (size_t)(step * QUAD) * (size_t)all + panel->start;
                fill_step_fast(kernels, rows, (size_t)all, fm_least(panel->vecs * kernels->lanes, all - panel->start),
                               weights->kernel_zero, packed + step_bytes * (size_t)at++, panel->vecs * kernels->lanes);
                continue;
            }
            if (set > 0 && !fill_step(kernels, map, weights, all, panel, step, set, NULL)) continue;
            fill_step(kernels, map, weights, all, panel, step, set, packed + step_bytes * (size_t)at);
            if (own) own[at] = quad_offset(map, step);
            at++;
        }
    }
}

fm_int8_conv fm_int8_pack_conv(fm_int8_store *store, const fm_int8_kernels *kernels, const fm_layer *layer,
                               const fm_int8_layer *weights, int row_bytes) {
    const int all = layer->out_channels, depth = layer->kernel * layer->kernel * layer->in_channels;
    const int vecs = (all + kernels->lanes - 1) / kernels->lanes, count = (vecs + kernels->vecs - 1) / kernels->vecs;
    const int first = layer->kind == FM_CONV;
    const quad_map map = {first ? 9 : depth / QUAD, row_bytes, first};
    const int sets = sets_of(kernels, weights->kernel, (size_t)depth * (size_t)all, weights->kernel_zero);
    fm_int8_panel *panels = fm_int8_take(store, sizeof *panels * (size_t)count);
    int32_t *offsets = fm_int8_take(store, sizeof *offsets * (size_t)map.steps);
    int32_t *bias = fm_int8_take(store, sizeof *bias * (size_t)(vecs * kernels->lanes));
    float *scale = fm_int8_take(store, 2 * sizeof *scale * (size_t)(vecs * kernels->lanes));
    float *offset = scale ? scale + vecs * kernels->lanes : NULL;
    const fm_int8_output output = output_of(weights, all, depth);
    for (int p = 0; p < count; p++) {
        fm_int8_panel panel = {.start = vecs * p / count * kernels->lanes};
        panel.vecs = vecs * (p + 1) / count - vecs * p / count;
        pack_panel(store, kernels, &map, weights, all, sets, offsets, &panel);
        if (store->block) panels[p] = panel;
    }
    if (store->block) {
        for (int step = 0; step < map.steps; step++) offsets[step] = quad_offset(&map, step);
        memset(bias, 0, sizeof *bias * (size_t)(vecs * kernels->lanes));
        memset(scale, 0, 2 * sizeof *scale * (size_t)(vecs * kernels->lanes));
        memcpy(scale, weights->scale, sizeof *scale * (size_t)all);
        for (int k = 0; k < depth; k++) { /* the sums of the weights, for now */
            const uint8_t *row = weights->kernel + (size_t)k * (size_t)all;
            for (int c = 0; c < all; c++) bias[c] += row[c] - weights->kernel_zero;
        }
        for (int c = 0; c < all; c++) {
            bias[c] = full_bias(kernels, weights, c, bias[c], output.plain);
            offset[c] = offset_of(scale[c]);
        }
    }
    /* Stores are of eight bytes at least: where 8 does not divide the columns, some zeros more. */
    const int columns = fm_least((all + 7) / 8 * 8, vecs * kernels->lanes);
    return (fm_int8_conv){kernels, panels, count, columns, bias, scale, offset, output};
}

int fm_int8_conv_part(const fm_int8_conv *conv, int p, int from, int to, fm_int8_conv_args *args) {
    const fm_int8_panel *panel = &conv->panels[p];
    const int lanes = conv->kernels->lanes, each = quad_bytes(conv->kernels), columns = panel->vecs * lanes;
    const int first = fm_most(panel->start, from), inside = first - panel->start;
    const int last = fm_least(fm_least(panel->start + columns, to), conv->columns);
    args->steps = panel->steps;
    args->offsets = panel->offsets;
    args->weights = panel->weights + inside * each / conv->kernels->parts;
    args->ldw = (size_t)(columns * each);
    args->part = (size_t)(columns * each / conv->kernels->parts);
    args->bias = conv->bias + first;
    args->scale = conv->scale + first;
    args->offset = conv->offset + first;
    args->columns = fm_most(0, last - first);
    args->output = conv->output;
    return first;
}

/* ---- depthwise -------------------------------------------------------------------------------------------- */

static int block_channels(const fm_int8_kernels *kernels) { return 4 * kernels->lanes; }

static size_t set_bytes(const fm_int8_kernels *kernels) {
    return (size_t)(2 * 3 * block_channels(kernels) * quad_bytes(kernels));
}

static size_t block_bytes(const fm_int8_kernels *kernels, int sets) {
    return (size_t)sets * set_bytes(kernels) + 3 * sizeof(int32_t) * (size_t)block_channels(kernels);
}

const char *fm_int8_depthwise_at(const fm_int8_depthwise *depthwise, int channel) {
    const fm_int8_kernels *kernels = depthwise->kernels;
    return depthwise->packed + (size_t)(channel / block_channels(kernels)) * block_bytes(kernels, depthwise->sets);
}

int fm_int8_depthwise_unit(const fm_int8_depthwise *depthwise) {
    return depthwise->repeat > 1 ? depthwise->channels : block_channels(depthwise->kernels);
}

/* Rows of fewer channels than a block has are one string of bytes, whose weights repeat after the least common
 * multiple of both: as if so many pixels were one. Not worth it elsewhere, for columns are then read thrice. */
static int repeat_of(const fm_int8_kernels *kernels, const fm_layer *layer) {
    const int block = block_channels(kernels), channels = layer->in_channels;
    int repeat = 1;
    if (layer->stride != 1 || 2 * channels > block) return 1;
    while (repeat * channels % block != 0) repeat++;
    return layer->in_width % repeat == 0 ? repeat : 1;
}

/* One channel of a block, at lane `lane` of vector `vec`. */
static void pack_channel(const fm_int8_kernels *kernels, const fm_int8_layer *weights, int channels, int channel,
                         int sets, int plain, char *block, int vec, int lane) {
    const int lanes = kernels->lanes, vec_bytes = lanes * quad_bytes(kernels) / kernels->parts;
    char *const sums = block + (size_t)sets * set_bytes(kernels);
    int total = 0;
    for (int set = 0; set < sets; set++) {
        for (int i = 0; i < 9; i++) {
            const int value = weights->kernel[i * channels + channel] - weights->kernel_zero;
            if (set == 0) total += value;
            for (int lower = 0; lower < 2; lower++) {
                /* A column's parts stand one after the other, four vectors each. */
                const int t = i / 3 + lower, part = t % kernels->parts;
                char *column = block + (size_t)set * set_bytes(kernels) +
                               (size_t)(((lower * 3 + i % 3) * kernels->parts + part) * 4 + vec) * (size_t)vec_bytes;
                put_weight(kernels, column - part * vec_bytes, lanes, lane, t, share_of(kernels, value, set));
            }
        }
    }
    const int32_t bias = full_bias(kernels, weights, channel, total, plain);
    const float scale = weights->scale[channel], offset = offset_of(scale);
    const size_t at = (size_t)(vec * lanes + lane) * sizeof bias, array = sizeof bias * (size_t)block_channels(kernels);
    memcpy(sums + at, &bias, sizeof bias);
    memcpy(sums + at + array, &scale, sizeof scale);
    memcpy(sums + at + 2 * array, &offset, sizeof offset);
}

fm_int8_depthwise fm_int8_pack_depthwise(fm_int8_store *store, const fm_int8_kernels *kernels, const fm_layer *layer,
                                         const fm_int8_layer *weights) {
    const int channels = layer->in_channels, repeat = repeat_of(kernels, layer), block = block_channels(kernels);
    const int all = channels * repeat, blocks = (all + block - 1) / block;
    const int sets = sets_of(kernels, weights->kernel, 9 * (size_t)channels, weights->kernel_zero);
    const size_t bytes = (size_t)blocks * block_bytes(kernels, sets);
    const fm_int8_output output = output_of(weights, channels, 9);
    char *packed = fm_int8_take(store, bytes);
    if (store->block) memset(packed, 0, bytes);
    for (int b = 0; store->block && b < blocks; b++) {
        for (int vec = 0; vec < 4; vec++) {
            for (int lane = 0; lane < kernels->lanes; lane++) {
                const int channel = b * block + fm_int8_channel(kernels->lanes, vec, lane);
                if (channel >= all) continue;
                pack_channel(kernels, weights, channels, channel % channels, sets, output.plain,
                             packed + (size_t)b * block_bytes(kernels, sets), vec, lane);
            }
        }
    }
    return (fm_int8_depthwise){kernels, packed, sets, all, repeat, output};
}

/* ---- residual addition ------------------------------------------------------------------------------------ */

/* Digit `digit` of a multiplier to the base of 256, digits from -128 to 127. */
static int digit_of(int32_t multiplier, int digit) {
    int32_t low = 0;
    for (; digit >= 0; digit--, multiplier = (multiplier - low) / 256) {
        low = (multiplier % 256 + 256 + 128) % 256 - 128;
    }
    return low;
}

fm_int8_add fm_int8_pack_add(fm_int8_store *store, const fm_int8_kernels *kernels, const fm_int8_sum *weights) {
    const size_t each = (size_t)(kernels->lanes * quad_bytes(kernels));
    char *packed = fm_int8_take(store, 3 * each);
    for (int digit = 0; store->block && digit < 3; digit++) {
        char *quads = packed + (size_t)digit * each;
        memset(quads, 0, each);
        for (int lane = 0; lane < kernels->lanes; lane++) {
            put_weight(kernels, quads, kernels->lanes, lane, 0, digit_of(weights->ma, digit));
            put_weight(kernels, quads, kernels->lanes, lane, 1, digit_of(weights->mb, digit));
        }
    }
    const uint32_t offset = (uint32_t)(kernels->x_offset * (weights->ma + weights->mb));
    const uint32_t zeros = (uint32_t)(weights->ma * weights->a_zero) + (uint32_t)(weights->mb * weights->b_zero);
    return (fm_int8_add){
        .kernels = kernels,
        .packed = packed,
        .bias = (int32_t)((1u << (weights->shift - 1)) + offset - zeros),
        .shift = weights->shift,
        .output = {weights->out_zero, weights->low, weights->high, 0},
    };
}
