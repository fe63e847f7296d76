/* The 8-bit tier's part of the walk: the kernel and the weights of each step. There is one slice, with all of a
 * thread's channels. Four output rows at a time are expanded, convolved and projected. Expanded rows have a pixel of
 * padding at each end, so that kernels need no code for borders. */
#include "int8/model.h"

#include <math.h>
#include <string.h>

#include "fpenv.h"
#include "int8/arrange.h"
#include "net/walk.h"

#define ELEMENT uint8_t

static const fm_int8_model *model_of(const run *r) { return (const fm_int8_model *)r->model; }

static void record(const run *r, int endpoint, int pixel, int pixels, slice s, const uint8_t *from, int stride);

static int slice_count(const run *r, int layer) {
    (void)r;
    (void)layer;
    return 1;
}

static slice slice_of(const run *r, int layer, int index, range channels) {
    (void)r;
    (void)layer;
    return (slice){.panel = index, .start = channels.from, .width = channels.to - channels.from};
}

/* Shares are whole vectors; shares of expanded channels are whole blocks of the depthwise kernel. */
static int share_of(const run *r, int layer, fm_team team) {
    const int b = layer / 3, expands = layer == fm_expand_layer(b) && b < FM_BLOCKS;
    const int columns = model_of(r)->conv[layer].columns;
    const int unit =
        expands ? fm_int8_depthwise_unit(&model_of(r)->depthwise[b]) : model_of(r)->conv[layer].kernels->lanes;
    return fm_min(unit * fm_share(team, (columns + unit - 1) / unit), columns);
}

/* A slice of a convolution. The caller has set args' a, lda, pixels, c, ldc, width and gap. */
static void convolve(const run *r, int layer, slice s, fm_int8_conv_args args) {
    const fm_int8_conv *conv = &model_of(r)->conv[layer];
    uint8_t *const c = args.c;
    const uint64_t start = tick(r);
    for (int p = 0; p < conv->count; p++) {
        const int column = fm_int8_conv_part(conv, p, s.start, s.start + s.width, &args);
        args.c = c + (column - s.start);
        if (args.columns > 0) conv->kernels->conv(&args);
    }
    tock(r, layer, start);
}

/* The three image rows that row y reads, as bytes, with a pixel of padding at each end. Rows outside the image are only
 * padding. The third row is kept as the first row of the next call; `fresh` means that none is kept yet. */
static void load_rows(const run *r, int y, int fresh) {
    const fm_network *network = &r->model->network;
    const size_t pixel = (size_t)network->colours, items = (size_t)network->width * pixel;
    const int zero = model_of(r)->image_zero;
    for (int i = 0; i < FM_IMAGE_ROWS; i++) {
        const int row = 2 * y - network->pad_top + i;
        uint8_t *const padded = r->own->image[i], *const out = padded + pixel;
        const size_t at = (r->image0 * (size_t)network->height + (size_t)row) * items;
        memset(padded, zero, pixel);
        memset(out + items, zero, pixel);
        if (row < 0 || row >= network->height) {
            memset(out, zero, items);
        } else if (i == 0 && !fresh) {
            memcpy(out, (uint8_t *)r->own->image[2] + pixel, items);
        } else if (r->request->dtype == FM_UINT8) {
            memcpy(out, (const uint8_t *)r->request->images + at, items);
        } else {
            const fm_int8_image_args args = {.pixels = (const float *)r->request->images + at, .out = out, .n = items};
            *r->out_of_range |= model_of(r)->conv[0].kernels->image(&args);
        }
    }
}

/* The padding of a row of the ring. */
static void pad_row(const run *r, int b, slice s, uint8_t *row) {
    const size_t pixel = (size_t)s.width, zero = model_of(r)->expanded_zero[b];
    memset(row, (int)zero, pixel);
    memset(row + pixel * (size_t)(block_of(r, b)->width + 1), (int)zero, pixel);
}

static void stem_row(const run *r, int y, int fresh, uint8_t *out) {
    const slice whole = {.width = block_of(r, 0)->expand};
    const int width = block_of(r, 0)->width;
    const size_t pixel = (size_t)r->model->network.colours;
    const uint64_t start = tick(r);
    load_rows(r, y, fresh);
    tock(r, 0, start);
    pad_row(r, 0, whole, out);
    const fm_int8_conv_args args = {.a = (uint8_t *)r->own->image[0] + (r->model->network.pad_left ? 0 : pixel),
                                    .lda = 2 * pixel,
                                    .pixels = width,
                                    .c = out + whole.width,
                                    .ldc = (size_t)whole.width,
                                    .width = width};
    convolve(r, 0, whole, args);
}

static void expand(const run *r, int b, slice s, const uint8_t *in, int rows, uint8_t *out) {
    const int width = block_of(r, b)->width;
    const size_t pixel = (size_t)s.width;
    for (int i = 0; i < rows; i++) pad_row(r, b, s, out + (size_t)i * pixel * (size_t)(width + 2));
    const fm_int8_conv_args args = {.a = in,
                                    .lda = (size_t)block_of(r, b)->in,
                                    .pixels = rows * width,
                                    .c = out + pixel,
                                    .ldc = pixel,
                                    .gap = 2 * pixel,
                                    .width = width};
    convolve(r, fm_expand_layer(b), s, args);
}

/* The buffer has one row of padding after the ring. */
static void depthwise(const run *r, int b, slice s, const uint8_t *const *rows, int count, uint8_t *out) {
    const fm_block *block = block_of(r, b);
    const fm_int8_depthwise *packed = &model_of(r)->depthwise[b];
    const int stride = block->stride, repeat = packed->repeat;
    const size_t pixel = (size_t)s.width, row_bytes = pixel * (size_t)(block->width + 2);
    uint8_t *border = (uint8_t *)r->own->ring + row_bytes * (size_t)r->model->plan.blocks[b].ring_rows;
    const int inputs = (count - 1) * stride + 3;
    const uint64_t start = tick(r);
    if (!rows[0] || !rows[inputs - 1]) memset(border, model_of(r)->expanded_zero[b], row_bytes);
    fm_int8_depthwise_args args = {
        .packed = fm_int8_depthwise_at(packed, s.start),
        .channels = s.width * repeat,
        .pixels = block->out_width / repeat,
        .sets = packed->sets,
        .tap = pixel,
        .step = pixel * (size_t)(stride * repeat),
        .output = packed->output,
        .out_step = (size_t)(block->expand * repeat),
        .out_row = (size_t)(block->out_width * block->expand),
    };
    for (int y = 0; y < count; y += 1 + args.two) {
        args.two = stride == 1 && y + 1 < count; /* neighbours share two input rows */
        for (int i = 0; i < 4; i++) {
            const uint8_t *row = i < 3 + args.two ? rows[y * stride + i] : NULL;
            /* The ring has a pixel of padding on the left. Maps of even width must skip it at stride 2. */
            args.rows[i] = row ? row + (block->pad_left ? 0 : pixel) : border;
        }
        args.out = out + (size_t)y * args.out_row;
        packed->kernels->depthwise(&args);
    }
    tock(r, fm_depthwise_layer(b), start);
}

static void project(const run *r, int b, slice s, const uint8_t *in, int first, int pixels, uint8_t *out,
                    const uint8_t *residual) {
    const fm_int8_add *add = &model_of(r)->add[b];
    const size_t ldc = (size_t)block_of(r, b)->out;
    const fm_int8_conv_args args = {
        .a = in, .lda = (size_t)block_of(r, b)->expand, .pixels = pixels, .c = out, .ldc = ldc, .width = pixels};
    convolve(r, fm_project_layer(b), s, args);
    record(r, fm_projection_endpoint(b), first, pixels, s, out, (int)ldc);
    if (!residual) return;
    const uint64_t start = tick(r);
    const int whole = s.width == block_of(r, b)->out; /* no gap between pixels */
    fm_int8_add_args sum = {.n = (size_t)s.width * (size_t)(whole ? pixels : 1),
                            .packed = add->packed,
                            .bias = add->bias,
                            .shift = add->shift,
                            .output = add->output};
    for (int i = 0; i < (whole ? 1 : pixels); i++) {
        sum.a = sum.out = out + (size_t)i * ldc;
        sum.b = residual + (size_t)i * ldc;
        add->kernels->add(&sum);
    }
    tock(r, fm_project_layer(b), start);
}

static void head(const run *r, slice s, const uint8_t *in, int pixels, uint8_t *out) {
    const fm_int8_conv_args args = {.a = in,
                                    .lda = (size_t)block_of(r, FM_BLOCKS - 1)->out,
                                    .pixels = pixels,
                                    .c = out,
                                    .ldc = (size_t)s.width,
                                    .width = pixels};
    convolve(r, FM_HEAD, s, args);
}

/* The sum of a channel's bytes is the index into a lookup table of averages. */
static void pool(const run *r, slice s, const uint8_t *map, int image) {
    enum { AT_ONCE = 64 };
    const fm_int8_model *model = model_of(r);
    const int pixels = fm_last_pixels(&model->base.network);
    const size_t index = r->image0 + (size_t)image;
    float *features = r->request->features + index * (size_t)model->base.network.features + s.start;
    for (int from = 0; from < s.width; from += AT_ONCE) {
        const slice part = {.start = s.start + from, .width = fm_min(AT_ONCE, s.width - from)};
        uint16_t sums[AT_ONCE] = {0};
        uint8_t pooled[AT_ONCE];
        for (int p = 0; p < pixels; p++) {
            const uint8_t *bytes = map + (size_t)p * (size_t)s.width + from;
            for (int c = 0; c < part.width; c++) sums[c] = (uint16_t)(sums[c] + bytes[c]);
        }
        for (int c = 0; c < part.width; c++) {
            pooled[c] = model->pool[sums[c]];
            features[from + c] = model->feature[pooled[c]];
        }
        record(r, FM_POOL_ENDPOINT, image, 1, part, pooled, part.width);
    }
}

#include "net/walk.inc"

/* Sets the features of every image that has a NaN to NaN. */
static void spread_nan(const fm_network *network, const fm_request *request) {
    const size_t items = (size_t)(network->height * network->width * network->colours);
    for (size_t i = 0; i < request->n; i++) {
        const float *pixels = (const float *)request->images + i * items;
        float *features = request->features + i * (size_t)network->features;
        int found = 0;
        for (size_t k = 0; k < items; k++) found |= isnan(pixels[k]) != 0;
        for (int k = 0; found && k < network->features; k++) features[k] = NAN;
    }
}

/* Restores endpoints of expanded channels to the file's order. */
static void restore_order(const fm_int8_model *model, const fm_request *request) {
    for (int b = 0; request->endpoints && b < FM_BLOCKS; b++) {
        const int indices[2] = {fm_expand_endpoint(b), fm_depthwise_endpoint(b)};
        for (int i = 0; model->order[b] && i < 2; i++) {
            const fm_endpoint shape = fm_endpoint_info(&model->base.network, indices[i]);
            const size_t pixels = request->n * (size_t)(shape.height * shape.width);
            uint8_t *map = request->endpoints[indices[i]];
            if (map) fm_int8_restore(map, pixels, shape.channels, model->order[b]);
        }
    }
}

static fm_status int8_forward(const fm_model *model, const fm_request *request, int *out_of_range) {
    int flags = 0;
    const fm_status status = forward(model, request, &flags);
    if (flags & FM_INT8_NAN) spread_nan(&model->network, request);
    if (flags & FM_INT8_OUT_OF_RANGE) *out_of_range = 1;
    if (status == FM_OK) restore_order((const fm_int8_model *)model, request);
    return status;
}

/* Each feature is the value of a byte. The byte is computed from the distance to the value of byte 0. */
static fm_status logits(const fm_model *model, const float *features, size_t n, float *out) {
    enum { AT_ONCE = 64 };
    const fm_network *network = &model->network;
    const fm_int8_model *own = (const fm_int8_model *)model;
    const fm_request request = {.ticks = NULL};
    const run r = {.model = model, .request = &request};
    fm_arena *arena = fm_arena_take((fm_model *)model);
    if (!arena) return FM_NO_MEMORY;
    uint8_t *bytes = arena->ring, *classes = arena->map[0]; /* far larger than needed */
    const float zero = own->feature[0], step = own->feature[1] - zero;
    const fm_fpenv saved = fm_fpenv_enter();
    for (size_t i = 0; i < n; i++, features += network->features, out += network->classes) {
        int nan = 0;
        for (int k = 0; k < network->features; k++) {
            const float byte = (features[k] - zero) / step + 0.5f;
            nan |= isnan(features[k]) != 0;
            bytes[k] = (uint8_t)(byte > 255.0f ? 255.0f : byte > 0.0f ? byte : 0.0f);
        }
        const fm_int8_conv_args args = {.a = bytes, .pixels = 1, .c = classes, .width = 1};
        convolve(&r, FM_LOGITS, (slice){.width = own->conv[FM_LOGITS].columns}, args);
        for (int k = 0; k < network->classes; k++) out[k] = nan ? NAN : own->logit[classes[k]];
    }
    fm_fpenv_leave(saved);
    fm_arena_give((fm_model *)model, arena);
    return FM_OK;
}

const fm_tier fm_int8_tier = {.forward = int8_forward, .logits = logits};
