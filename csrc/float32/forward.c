/* The float32 tier's part of the walk: the kernel and the weights of each step. */
#include "float32/model.h"

#include "fpenv.h"
#include "net/walk.h"
#include "unroll.h"

#define ELEMENT float

static const fm_float32_conv *conv_of(const run *r, int layer) {
    return &((const fm_float32_model *)r->model)->conv[layer];
}

static int slice_count(const run *r, int layer) { return layer == 0 ? 1 : conv_of(r, layer)->panels; }

static slice slice_of(const run *r, int layer, int index, range channels) {
    const fm_float32_conv *conv = conv_of(r, layer);
    if (layer == 0) return (slice){.panel = 0, .start = 0, .width = conv->columns};
    const fm_float32_panel panel = fm_float32_panel_at(conv, index);
    const int first = fm_max(panel.start, channels.from), last = fm_min(panel.start + panel.width, channels.to);
    return (slice){.panel = index, .start = first, .width = fm_max(0, last - first)};
}

/* Shares are whole vectors, and may begin inside a panel. With 16 registers a narrow part of a panel is slow, but whole
 * panels are too coarse to follow the threads' speeds (1 % slower), and taller tiles for narrow parts gain nothing. */
static int share_of(const run *r, int layer, fm_team team) {
    const fm_float32_conv *conv = conv_of(r, layer);
    const int lanes = conv->kernels->lanes;
    return fm_min(fm_share(team, fm_vectors(conv->columns, lanes)) * lanes, conv->columns);
}

/* The team that splits a pointwise layer's channels: a team of one if the block is split by rows. */
static fm_team sharing(const run *r, int layer) {
    const int alone = layer < FM_HEAD && fm_goes_by_rows(&r->model->plan, layer / 3, r->team.size);
    return alone ? (fm_team){.size = 1} : r->team;
}

/* The panel that holds a channel. */
static fm_float32_panel panel_around(const fm_float32_conv *conv, int channel) {
    fm_float32_panel panel = fm_float32_panel_at(conv, 0);
    for (int p = 1; panel.start + panel.width <= channel; p++) panel = fm_float32_panel_at(conv, p);
    return panel;
}

/* The panel that this thread reads next: the next one of its share of the layer or, after the last, the first one of
 * its share of the next pointwise layer. Each thread prefetches its own share; otherwise it waits for L3 in every
 * layer. */
static const float *next_panel(const run *r, int layer, int index, size_t *floats) {
    const fm_float32_conv *conv = conv_of(r, layer);
    fm_float32_panel next = fm_float32_panel_at(conv, index);
    const int end = next.start + next.width;
    if (end < share_of(r, layer, fm_next(sharing(r, layer)))) {
        next = fm_float32_panel_at(conv, index + 1);
    } else if (layer < FM_HEAD) {
        layer += layer == fm_expand_layer(layer / 3) ? 2 : 1; /* the depthwise layer between them is small */
        conv = conv_of(r, layer);
        next = panel_around(conv, share_of(r, layer, sharing(r, layer)));
    }
    *floats = fm_float32_panel_floats(conv, next);
    return fm_float32_panel_weights(conv, next);
}

/* One slice of a pointwise layer. The caller has set args' a, residual, c, rows, ldc and epilogue. The next panel is
 * prefetched at the same time: also in layers with few weights, because a whole network's weights don't fit in L2. */
static void pointwise(const run *r, int layer, slice s, fm_float32_pointwise_args args) {
    const fm_float32_conv *conv = conv_of(r, layer);
    const uint64_t start = tick(r);
    const fm_float32_panel panel = fm_float32_panel_at(conv, s.panel);
    size_t floats = 0;
    args.k = conv->depth;
    args.panel = fm_float32_panel_weights(conv, panel) + (s.start - panel.start);
    args.ldb = panel.width;
    args.columns = s.width;
    args.ahead = next_panel(r, layer, s.panel, &floats);
    args.ahead_bytes = (int)(floats * sizeof(float));
    conv->kernels->pointwise(&args);
    tock(r, layer, start);
}

/* Row y reads three image rows. The first may lie above the image, the last below it. Scaled rows are kept from one
 * call to the next; `fresh` means that there are none yet. */
static void stem_row(const run *r, int y, int fresh, float *out) {
    const fm_float32_conv *conv = conv_of(r, 0);
    const int height = r->model->network.height, top = 2 * y - r->model->network.pad_top;
    const size_t items = r->model->plan.image_row;
    const size_t row_bytes = items * (r->request->dtype == FM_UINT8 ? 1 : sizeof(float));
    const char *pixels = (const char *)r->request->images + r->image0 * (size_t)height * row_bytes;
    const float *rows[FM_IMAGE_ROWS] = {NULL, NULL, NULL};
    const uint64_t start = tick(r);
    for (int i = 0; i < FM_IMAGE_ROWS; i++) {
        const int row = top + i;
        if (row < 0 || row >= height) continue;
        float *scaled = r->own->image[row % FM_IMAGE_ROWS];
        rows[i] = scaled;
        if (i == 0 && !fresh) continue;
        fm_float32_scale_args scale = ((const fm_float32_model *)r->model)->scale;
        scale.from = pixels + (size_t)row * row_bytes;
        scale.to = scaled;
        if (r->request->dtype == FM_UINT8) conv->kernels->scale_u8(&scale);
        else *r->out_of_range |= conv->kernels->scale_f32(&scale);
    }
    /* Prefetches the rows of the call after the next, because a batch is in L3 or memory. */
    const fm_float32_stem_args args = {.rows = rows,
                                       .packed = conv->packed,
                                       .out = out,
                                       .width = r->model->network.width,
                                       .outputs = conv->columns,
                                       .ahead = pixels + (size_t)(top + 5) * row_bytes,
                                       .ahead_bytes = 2 * (int)row_bytes};
    conv->kernels->stem(&args);
    tock(r, 0, start);
}

/* Prefetches the depthwise weights, used after the expansion. They are few, but waiting for L3 takes as long as
 * computing: 27 instead of 15 us for a layer of 7x7x960 (Zen 3). Inlined, because gcc 12 drops calls of functions that
 * only prefetch. */
FM_INLINE void prefetch_depthwise(const run *r, int b, slice s) {
#if defined(__GNUC__)
    const fm_float32_conv *conv = conv_of(r, fm_depthwise_layer(b));
    const float *weights = fm_float32_depthwise_weights(conv, s.start),
                *end = fm_float32_depthwise_weights(conv, s.start + s.width);
    for (; weights < end; weights += FM_ALIGN / sizeof(float)) __builtin_prefetch(weights);
#else
    (void)r, (void)b, (void)s;
#endif
}

static void expand(const run *r, int b, slice s, const float *in, int rows, float *out) {
    const fm_float32_pointwise_args args = {
        .a = in, .c = out, .rows = rows * block_of(r, b)->width, .ldc = s.width, .epilogue = FM_RELU6};
    prefetch_depthwise(r, b, s);
    pointwise(r, fm_expand_layer(b), s, args);
}

static void depthwise(const run *r, int b, slice s, const float *const *rows, int count, float *out) {
    const fm_float32_conv *conv = conv_of(r, fm_depthwise_layer(b));
    const fm_float32_depthwise_args args = {.rows = rows,
                                            .packed = fm_float32_depthwise_weights(conv, s.start),
                                            .out = out,
                                            .channels = s.width,
                                            .in_width = block_of(r, b)->width,
                                            .in_stride = s.width,
                                            .out_rows = count,
                                            .out_stride = block_of(r, b)->expand,
                                            .stride = block_of(r, b)->stride};
    const uint64_t start = tick(r);
    conv->kernels->depthwise(&args);
    tock(r, fm_depthwise_layer(b), start);
}

static void project(const run *r, int b, slice s, const float *in, int first, int pixels, float *out,
                    const float *residual) {
    const fm_float32_pointwise_args args = {.a = in,
                                            .residual = residual,
                                            .c = out,
                                            .rows = pixels,
                                            .ldc = block_of(r, b)->out,
                                            .epilogue = residual ? FM_RESIDUAL : FM_LINEAR};
    (void)first;
    pointwise(r, fm_project_layer(b), s, args);
}

static void head(const run *r, slice s, const float *in, int pixels, float *out) {
    const fm_float32_pointwise_args args = {.a = in, .c = out, .rows = pixels, .ldc = s.width, .epilogue = FM_RELU6};
    pointwise(r, FM_HEAD, s, args);
}

static void record(const run *r, int endpoint, int pixel, int pixels, slice s, const float *from, int stride);

static void pool(const run *r, slice s, const float *map, int image) {
    const size_t index = r->image0 + (size_t)image;
    float *features = r->request->features + index * (size_t)r->model->network.features + s.start;
    const fm_float32_pool_args args = {
        .map = map, .out = features, .pixels = fm_last_pixels(&r->model->network), .channels = s.width};
    conv_of(r, FM_HEAD)->kernels->pool(&args);
    record(r, FM_POOL_ENDPOINT, image, 1, s, features, s.width);
}

#include "net/walk.inc"

static fm_status logits(const fm_model *model, const float *features, size_t n, float *out) {
    const fm_network *network = &model->network;
    const fm_request request = {.ticks = NULL};
    const run r = {.model = model, .request = &request, .team = {.size = 1}};
    fm_arena *arena = fm_arena_take((fm_model *)model);
    if (!arena) return FM_NO_MEMORY;
    const fm_float32_conv *conv = conv_of(&r, FM_LOGITS);
    float *padded = arena->map[0]; /* a map buffer, because there are more columns than classes */
    const fm_fpenv saved = fm_fpenv_enter();
    for (size_t i = 0; i < n; i++) {
        for (int p = 0; p < conv->panels; p++) {
            const slice s = slice_of(&r, FM_LOGITS, p, (range){0, conv->columns});
            const fm_float32_pointwise_args args = {.a = features + i * (size_t)network->features,
                                                    .c = padded + s.start,
                                                    .rows = 1,
                                                    .ldc = conv->columns,
                                                    .epilogue = FM_LINEAR};
            pointwise(&r, FM_LOGITS, s, args);
        }
        memcpy(out + i * (size_t)network->classes, padded, sizeof(float) * (size_t)network->classes);
    }
    fm_fpenv_leave(saved);
    fm_arena_give((fm_model *)model, arena);
    return FM_OK;
}

const fm_tier fm_float32_tier = {.forward = forward, .logits = logits};
