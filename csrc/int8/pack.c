#include "int8/pack.h"

#include "int8/pack_pairs.h"

#include <string.h>

enum { ALIGN = 64, QUAD = 4, MAX_LANES = 16 };

void *fm_int8_take(fm_int8_store *store, size_t bytes) {
    void *found = store->block ? store->block + store->used : NULL;
    store->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return found;
}

/* ---- quads ------------------------------------------------------------------------------------------------ */

/* The layout of a quad's weights: 1, 2 or 4 parts, and 1 or 2 bytes per weight. */
typedef struct quad_form {
    int parts, bytes;
} quad_form;

static const quad_form whole_bytes = {1, 1};

static quad_form form_of(const fm_int8_kernels *kernels) { return (quad_form){kernels->parts, kernels->bytes}; }

/* Bytes of one quad's weights for one output. */
static int quad_bytes(const fm_int8_kernels *kernels) { return QUAD * kernels->bytes; }

/* Puts weight `t` of a quad for column `column` of `columns`. */
static void put_weight(quad_form form, char *step, int columns, int column, int t, int value) {
    /* No division, because this runs for every single weight of a layer. */
    const int each = form.parts == 1 ? QUAD : form.parts == 2 ? 2 : 1;
    const int at = ((t & (form.parts - 1)) * columns + column) * each + t * each / QUAD;
    if (form.bytes == 1) {
        ((int8_t *)step)[at] = (int8_t)value;
    } else {
        const int16_t wide = (int16_t)value;
        memcpy(step + 2 * at, &wide, sizeof wide);
    }
}

/* The part of a weight (-255 to 255) in set `set`. The parts of all sets add up to the weight; if they are signed
 * bytes, up to three are needed. */
static int share_of(quad_form form, int value, int set) {
    for (int part = 0; form.bytes == 1; set--, value -= part) {
        part = value < -128 ? -128 : value > 127 ? 127 : value;
        if (set == 0) return part;
    }
    return set == 0 ? value : 0;
}

/* The number of sets that a layer needs. */
static int sets_of(quad_form form, const uint8_t *kernel, size_t count, int zero) {
    int least = 255, most = 0, sets = 1;
    if (form.bytes > 1) return 1;
    for (size_t i = 0; i < count; i++) {
        least = kernel[i] < least ? kernel[i] : least;
        most = kernel[i] > most ? kernel[i] : most;
    }
    while (share_of(form, least - zero, sets) || share_of(form, most - zero, sets)) sets++;
    return sets;
}

/* ---- sums and outputs ------------------------------------------------------------------------------------- */

/* The bias, corrected for the input's zero point and the kernels' x_offset, modulo 2^32. `total` is the sum of the
 * channel's weights. */
static int32_t full_bias(const fm_int8_kernels *kernels, const fm_int8_layer *weights, int channel, int total,
                         int plain) {
    const uint32_t moved = (uint32_t)((kernels->x_offset - weights->in_zero) * total);
    const uint32_t magic = kernels->magic && plain ? FM_INT8_MAGIC : 0;
    return (int32_t)((uint32_t)weights->bias[channel] + moved + magic);
}

static float offset_of(float scale) { return -8388608.0f * scale; }

/* See fm_int8_output. A sum of `depth` products is at most 255 * 255 * depth. If it is below 2^26, its bits with the
 * magic bias are a float of at most 2^31. Sums from 2^23 on must saturate, which limits the scale. */
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

/* The offsets of a convolution's quads, and the rows of the kernel, [rows][columns], that multiply them. */
typedef struct quad_map {
    int steps, row_bytes, first_conv;
} quad_map;

static int quad_offset(const quad_map *map, int step) {
    return map->first_conv ? step / 3 * map->row_bytes + step % 3 * QUAD : step * QUAD;
}

/* The first convolution's three rows of nine bytes end inside a quad. -1 marks a byte that has no weight. */
static int quad_row(const quad_map *map, int step, int t) {
    if (!map->first_conv) return step * QUAD + t;
    const int tap = step % 3 * QUAD + t;
    return tap < 9 ? step / 3 * 9 + tap : -1;
}

/* One panel of a convolution's weights, [depth][all]. The first `real` of its `columns` have weights. */
typedef struct panel_source {
    const quad_map *map;
    const uint8_t *kernel; /* from the panel's first column on */
    int all, zero, columns, real;
} panel_source;

static const uint8_t *source_row(const panel_source *source, int step, int t) {
    const int row = quad_row(source->map, step, t);
    return row < 0 ? NULL : source->kernel + (size_t)row * (size_t)source->all;
}

/* Packs one step of a panel for one set. Returns whether any weight is not 0. */
static int fill_step(quad_form form, const panel_source *source, int step, int set, char *target) {
    int any = 0;
    if (target) memset(target, 0, (size_t)(source->columns * QUAD * form.bytes));
    for (int t = 0; t < QUAD; t++) {
        const uint8_t *row = source_row(source, step, t);
        for (int c = 0; row && c < source->real; c++) {
            const int value = share_of(form, row[c] - source->zero, set);
            any |= value;
            if (target) put_weight(form, target, source->columns, c, t, value);
        }
    }
    return any != 0;
}

/* The same for the usual case: every weight fits its bytes, and every byte of the quad has a weight. Copies whole rows
 * in loops that compilers vectorise. */
static void fill_step_fast(quad_form form, const panel_source *source, int step, char *target) {
    const int parts = form.parts, real = source->real, columns = source->columns, zero = source->zero;
    const uint8_t *r[QUAD];
    for (int t = 0; t < QUAD; t++) r[t] = source_row(source, step, t);
    if (real < columns) memset(target, 0, (size_t)(columns * QUAD * form.bytes));
    if (form.bytes == 1) {
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

/* Packs every quad once, and quads with weights that don't fit in signed bytes again, with the remainders. */
static void pack_in_order(fm_int8_store *store, const fm_int8_kernels *kernels, const panel_source *source, int sets,
                          const int32_t *offsets, fm_int8_panel *panel) {
    const quad_form form = form_of(kernels);
    const size_t step_bytes = (size_t)(source->columns * quad_bytes(kernels));
    const int steps = source->map->steps;
    int more = 0;
    for (int set = 1; set < sets; set++) {
        for (int step = 0; step < steps; step++) more += fill_step(form, source, step, set, NULL);
    }
    int32_t *own = more ? fm_int8_take(store, sizeof *own * (size_t)(steps + more)) : NULL;
    char *packed = fm_int8_take(store, step_bytes * (size_t)(steps + more));
    panel->steps = steps + more;
    panel->offsets = more ? own : offsets;
    panel->weights = packed;
    if (!store->block) return;
    int at = 0;
    for (int set = 0; set < sets; set++) {
        for (int step = 0; step < steps; step++) {
            if (sets == 1 && !source->map->first_conv) {
                fill_step_fast(form, source, step, packed + step_bytes * (size_t)at++);
                continue;
            }
            if (set > 0 && !fill_step(form, source, step, set, NULL)) continue;
            fill_step(form, source, step, set, packed + step_bytes * (size_t)at);
            if (own) own[at] = quad_offset(source->map, step);
            at++;
        }
    }
}

static fm_int8_order order_of(const fm_int8_kernels *kernels, const panel_source *source) {
    fm_int8_load loads[FM_INT8_MAX_STEPS];
    for (int step = 0; step < source->map->steps; step++) {
        const uint8_t *rows[QUAD];
        for (int t = 0; t < QUAD; t++) rows[t] = source_row(source, step, t);
        fm_int8_load_of(rows, source->real, source->zero, &loads[step]);
    }
    return fm_int8_order_quads(loads, source->map->steps, kernels->pair_max);
}

/* Packs quads whose sums fit in 16 bits first, as bytes. While the store is only measured, every quad counts as wide:
 * finding the fast ones takes time, and the unused end of the memory costs nothing because it is never touched. */
static void pack_by_pairs(fm_int8_store *store, const fm_int8_kernels *kernels, const panel_source *source,
                          fm_int8_panel *panel) {
    const int steps = source->map->steps;
    const size_t bytes_step = (size_t)(source->columns * QUAD), wide_step = bytes_step * (size_t)kernels->bytes;
    fm_int8_order order = {.doubles = 0};
    if (store->block) order = order_of(kernels, source);
    const int bytes = 2 * order.doubles + order.singles;
    int32_t *offsets = fm_int8_take(store, sizeof *offsets * (size_t)steps);
    char *packed = fm_int8_take(store, bytes_step * (size_t)bytes + wide_step * (size_t)(steps - bytes));
    panel->doubles = order.doubles;
    panel->singles = order.singles;
    panel->steps = steps - bytes;
    panel->offsets = offsets;
    panel->weights = packed;
    for (int i = 0; store->block && i < steps; i++) {
        const quad_form form = i < bytes ? whole_bytes : form_of(kernels);
        offsets[i] = quad_offset(source->map, order.quads[i]);
        if (source->map->first_conv) fill_step(form, source, order.quads[i], 0, packed);
        else fill_step_fast(form, source, order.quads[i], packed);
        packed += i < bytes ? bytes_step : wide_step;
    }
}

static void pack_panel(fm_int8_store *store, const fm_int8_kernels *kernels, const quad_map *map,
                       const fm_int8_layer *weights, int all, int sets, const int32_t *offsets, fm_int8_panel *panel) {
    const int columns = panel->vecs * kernels->lanes;
    const panel_source source = {.map = map,
                                 .kernel = weights->kernel + panel->start,
                                 .all = all,
                                 .zero = weights->kernel_zero,
                                 .columns = columns,
                                 .real = fm_min(columns, all - panel->start)};
    if (kernels->pair_max) pack_by_pairs(store, kernels, &source, panel);
    else pack_in_order(store, kernels, &source, sets, offsets, panel);
}

fm_int8_conv fm_int8_pack_conv(fm_int8_store *store, const fm_int8_kernels *kernels, const fm_layer *layer,
                               const fm_int8_layer *weights, int row_bytes) {
    const int all = layer->out_channels, depth = layer->kernel * layer->kernel * layer->in_channels;
    const int vecs = (all + kernels->lanes - 1) / kernels->lanes, count = fm_int8_panels(kernels, vecs);
    const int first = layer->kind == FM_CONV;
    const quad_map map = {first ? 9 : depth / QUAD, row_bytes, first};
    const int sets = sets_of(form_of(kernels), weights->kernel, (size_t)depth * (size_t)all, weights->kernel_zero);
    fm_int8_panel *panels = fm_int8_take(store, sizeof *panels * (size_t)count);
    int32_t *offsets = fm_int8_take(store, sizeof *offsets * (size_t)map.steps);
    int32_t *bias = fm_int8_take(store, sizeof *bias * (size_t)(vecs * kernels->lanes));
    float *scale = fm_int8_take(store, 2 * sizeof *scale * (size_t)(vecs * kernels->lanes));
    float *offset = scale ? scale + vecs * kernels->lanes : NULL;
    const fm_int8_output output = output_of(weights, all, depth);
    for (int p = 0; p < count; p++) {
        fm_int8_panel panel = {.start = fm_int8_panel_start(kernels, vecs, p)};
        panel.vecs = (fm_int8_panel_start(kernels, vecs, p + 1) - panel.start) / kernels->lanes;
        pack_panel(store, kernels, &map, weights, all, sets, offsets, &panel);
        if (store->block) panels[p] = panel;
    }
    if (store->block) {
        for (int step = 0; step < map.steps; step++) offsets[step] = quad_offset(&map, step);
        memset(bias, 0, sizeof *bias * (size_t)(vecs * kernels->lanes));
        memset(scale, 0, 2 * sizeof *scale * (size_t)(vecs * kernels->lanes));
        memcpy(scale, weights->scale, sizeof *scale * (size_t)all);
        for (int k = 0; k < depth; k++) { /* first the sums of the weights */
            const uint8_t *row = weights->kernel + (size_t)k * (size_t)all;
            for (int c = 0; c < all; c++) bias[c] += row[c] - weights->kernel_zero;
        }
        for (int c = 0; c < all; c++) {
            bias[c] = full_bias(kernels, weights, c, bias[c], output.plain);
            offset[c] = offset_of(scale[c]);
        }
    }
    /* Stores have at least eight bytes, so columns are padded with zeros to a multiple of 8. */
    const int columns = fm_min((all + 7) / 8 * 8, vecs * kernels->lanes);
    return (fm_int8_conv){kernels, panels, count, columns, bias, scale, offset, output};
}

int fm_int8_conv_part(const fm_int8_conv *conv, int p, int from, int to, fm_int8_conv_args *args) {
    const fm_int8_panel *panel = &conv->panels[p];
    const int lanes = conv->kernels->lanes, each = quad_bytes(conv->kernels), columns = panel->vecs * lanes;
    const int first = fm_max(panel->start, from), inside = first - panel->start;
    const int last = fm_min(fm_min(panel->start + columns, to), conv->columns);
    args->doubles = panel->doubles;
    args->singles = panel->singles;
    args->steps = panel->steps;
    args->offsets = panel->offsets;
    args->weights = panel->weights + inside * each / conv->kernels->parts;
    args->ldw = (size_t)(columns * each);
    args->part = (size_t)(columns * each / conv->kernels->parts);
    args->bias = conv->bias + first;
    args->scale = conv->scale + first;
    args->offset = conv->offset + first;
    args->columns = fm_max(0, last - first);
    args->output = conv->output;
    return first;
}

/* ---- depthwise -------------------------------------------------------------------------------------------- */

static int block_channels(const fm_int8_kernels *kernels) { return kernels->deep * kernels->lanes; }

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

/* How many pixels to merge in rows of few channels, so that the channels fill whole blocks. Not worth it elsewhere,
 * because columns would be read three times. */
static int repeat_of(const fm_int8_kernels *kernels, const fm_layer *layer) {
    const int block = block_channels(kernels), channels = layer->in_channels;
    int repeat = 1;
    if (layer->stride != 1 || 2 * channels > block) return 1;
    while (repeat * channels % block != 0) repeat++;
    return layer->in_width % repeat == 0 ? repeat : 1;
}

/* Packs vector `vec` of a block. `channel` has the channel of each lane, or -1. */
static void pack_vec(const fm_int8_kernels *kernels, const fm_int8_layer *weights, int channels, const int *channel,
                     int sets, int plain, char *block, int vec) {
    const quad_form form = form_of(kernels);
    const int lanes = kernels->lanes, deep = kernels->deep, zero = weights->kernel_zero;
    const size_t vec_bytes = (size_t)(lanes * quad_bytes(kernels) / form.parts), own_bytes = set_bytes(kernels);
    int totals[MAX_LANES] = {0};
    for (int i = 0; i < 9; i++) {
        const uint8_t *row = weights->kernel + i * channels;
        for (int lane = 0; lane < lanes; lane++) totals[lane] += channel[lane] < 0 ? 0 : row[channel[lane]] - zero;
        for (int k = 0; k < 2 * sets; k++) {
            /* The parts of a column are stored one after the other, each for all vectors. */
            const int set = k / 2, lower = k % 2, t = i / 3 + lower, part = t & (form.parts - 1);
            char *column = block + (size_t)set * own_bytes +
                           (size_t)((lower * 3 + i % 3) * form.parts * deep + part * (deep - 1) + vec) * vec_bytes;
            for (int lane = 0; lane < lanes; lane++) {
                const int value = channel[lane] < 0 ? 0 : row[channel[lane]] - zero;
                put_weight(form, column, lanes, lane, t, share_of(form, value, set));
            }
        }
    }
    int32_t *bias = (int32_t *)(void *)(block + (size_t)sets * own_bytes) + vec * lanes;
    float *scale = (float *)(void *)(bias + block_channels(kernels)), *offset = scale + block_channels(kernels);
    for (int lane = 0; lane < lanes; lane++) {
        if (channel[lane] < 0) continue;
        bias[lane] = full_bias(kernels, weights, channel[lane], totals[lane], plain);
        scale[lane] = weights->scale[channel[lane]];
        offset[lane] = offset_of(scale[lane]);
    }
}

fm_int8_depthwise fm_int8_pack_depthwise(fm_int8_store *store, const fm_int8_kernels *kernels, const fm_layer *layer,
                                         const fm_int8_layer *weights) {
    const int channels = layer->in_channels, repeat = repeat_of(kernels, layer), block = block_channels(kernels);
    const int all = channels * repeat, blocks = (all + block - 1) / block;
    const int sets = sets_of(form_of(kernels), weights->kernel, 9 * (size_t)channels, weights->kernel_zero);
    const size_t bytes = (size_t)blocks * block_bytes(kernels, sets);
    const fm_int8_output output = output_of(weights, channels, 9);
    char *packed = fm_int8_take(store, bytes);
    if (store->block) memset(packed, 0, bytes);
    for (int b = 0; store->block && b < blocks; b++) {
        for (int vec = 0; vec < kernels->deep; vec++) {
            int of_lane[MAX_LANES];
            for (int lane = 0; lane < kernels->lanes; lane++) {
                const int inside = kernels->deep == 1 ? lane : fm_int8_channel(kernels->lanes, vec, lane);
                const int found = b * block + inside;
                of_lane[lane] = found < all ? found % channels : -1;
            }
            pack_vec(kernels, weights, channels, of_lane, sets, output.plain,
                     packed + (size_t)b * block_bytes(kernels, sets), vec);
        }
    }
    return (fm_int8_depthwise){kernels, packed, sets, all, repeat, output};
}

/* ---- residual addition ------------------------------------------------------------------------------------ */

/* Digit `digit` of a multiplier in base 256, with digits from -128 to 127. */
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
            put_weight(form_of(kernels), quads, kernels->lanes, lane, 0, digit_of(weights->ma, digit));
            put_weight(form_of(kernels), quads, kernels->lanes, lane, 1, digit_of(weights->mb, digit));
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
