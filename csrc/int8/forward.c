/* The 8-bit computation. The same network as csrc/net walks in float32, walked another way: bytes are a quarter of the
 * size, so that a block's expanded rows fit the nearest cache at their full width, and no slices of channels are needed.
 * Two output rows at a time are expanded, put through the depthwise kernel and projected; small maps go through whole.
 * Expanded rows have a pixel of padding at each end, so that no kernel knows about borders. */
#include <math.h>
#include <string.h>

#include "fpenv.h"
#include "int8/network.h"
#include "parallel.h"
#include "ticks.h"

/* What every step of one image needs. */
typedef struct run {
    const fm_int8_model *model;
    const fm_int8_request *request;
    size_t image;
    fm_team team;
    fm_int8_arena *shared; /* the team's: image and maps */
    fm_int8_arena *own;    /* this thread's: expanded rows */
    int *out_of_range;     /* this thread's */
} run;

static int least(int a, int b) { return a < b ? a : b; }
static int most(int a, int b) { return a > b ? a : b; }

/* Around every kernel: adds the time between to the layer's, if the caller asked for a profile. */
static uint64_t tick(const run *r) { return r->request->ticks ? fm_read_ticks() : 0; }
static void tock(const run *r, int layer, uint64_t start) {
    if (r->request->ticks) r->request->ticks[layer] += fm_read_ticks() - start;
}

/* Copies channels [from, to) of `pixels` pixels of a map of `all` channels, `size` pixels wide and high, to where the
 * caller wants them. `stride` bytes lie between pixels, and `gap` more between rows. */
static void record(const run *r, uint8_t *target, int size, int all, int from, int to, int pixel, int pixels,
                   const uint8_t *source, int stride, int gap) {
    if (!target) return;
    target += (r->image * (size_t)(size * size) + (size_t)pixel) * (size_t)all + from;
    for (int i = 0; i < pixels; i++, target += all, source += stride) {
        memcpy(target, source, (size_t)(to - from));
        if ((pixel + i + 1) % size == 0) source += gap;
    }
}

/* Columns [from, to) of a convolution of `pixels` pixels, `lda` bytes each: c gets column `from` of pixel i at i * ldc,
 * and `gap` more after each `width` pixels. */
static void convolve(const run *r, int layer, int from, int to, const uint8_t *a, size_t lda, int pixels, uint8_t *c,
                     size_t ldc, int width, size_t gap) {
    const fm_int8_conv *conv = &r->model->conv[layer];
    const uint64_t start = tick(r);
    for (int p = 0; p < conv->count; p++) {
        fm_int8_conv_args args = fm_int8_conv_part(conv, p, from, to);
        if (args.columns == 0) continue;
        args.a = a;
        args.lda = lda;
        args.pixels = pixels;
        args.c = c + most(conv->panels[p].start - from, 0);
        args.ldc = ldc;
        args.width = width;
        args.gap = gap;
        conv->kernels->conv(&args);
    }
    tock(r, layer, start);
}

/* ---- the image -------------------------------------------------------------------------------------- */

/* This thread's share of the rows, as bytes with the padding that the first convolution reads. */
static void load_image(const run *r) {
    const fm_int8_model *model = r->model;
    const size_t items = FM_SIZE * 3, first = r->image * FM_SIZE;
    const int y0 = fm_share(r->team, FM_SIZE), y1 = fm_share(fm_next(r->team), FM_SIZE);
    const uint64_t start = tick(r);
    for (int y = y0; y < y1; y++) {
        uint8_t *out = r->shared->image + (size_t)y * model->sizes.image_row;
        const size_t at = (first + (size_t)y) * items;
        if (r->request->dtype == FM_UINT8) {
            memcpy(out, (const uint8_t *)r->request->images + at, items);
            continue;
        }
        fm_int8_image_args args = {.pixels = (const float *)r->request->images + at, .out = out, .n = items};
        model->conv[0].kernels->image(&args);
        *r->out_of_range |= args.out_of_range;
        if (args.nan) atomic_store(&r->shared->nan[r->image % 2], 1);
    }
    tock(r, 0, start);
    fm_wait(r->team);
}

/* ---- one block -------------------------------------------------------------------------------------- */

/* A thread's way through a block: channels [from, to) of the expanded map, of which rows before `ready` have been
 * expanded to the ring. */
typedef struct band {
    int b, from, to, ready;
} band;

/* The padding of the ring's rows, and a row of nothing else. */
static void pad(const run *r, const band *s) {
    const size_t pixel = (size_t)(s->to - s->from), row = pixel * (size_t)(fm_blocks[s->b].size + 2);
    const int zero = r->model->depthwise_zero[s->b];
    uint8_t *at = r->own->ring;
    for (int i = 0; i < r->model->plan[s->b].ring_rows; i++, at += row) {
        memset(at, zero, pixel);
        memset(at + row - pixel, zero, pixel);
    }
    memset(r->own->border, zero, row);
}

/* Expanded rows up to `stop`, into the ring; in the place of an expansion block 0 has the first convolution. */
static void expand_rows(const run *r, band *s, const uint8_t *in, int stop) {
    const fm_block *block = &fm_blocks[s->b];
    const int size = block->size, rings = r->model->plan[s->b].ring_rows, layer = fm_expand_layer(s->b);
    const size_t pixel = (size_t)(s->to - s->from), row = pixel * (size_t)(size + 2);
    for (int count; s->ready < stop; s->ready += count) {
        const int slot = s->ready % rings;
        uint8_t *out = r->own->ring + (size_t)slot * row + pixel;
        if (s->b == 0) {
            count = 1;
            convolve(r, layer, s->from, s->to, r->shared->image + 2 * (size_t)s->ready * r->model->sizes.image_row, 6,
                     size, out, pixel, size, 2 * pixel);
        } else {
            count = least(stop - s->ready, rings - slot);
            convolve(r, layer, s->from, s->to, in + s->ready * size * block->in, (size_t)block->in, count * size, out,
                     pixel, size, 2 * pixel);
        }
        record(r, r->request->endpoints[fm_expand_endpoint(s->b)], size, block->expand, s->from, s->to,
               s->ready * size, count * size, out, (int)pixel, 2 * (int)pixel);
    }
}

/* Depthwise output rows [y, y + rows) from the ring, two at a time where neighbours share input rows. */
static void depthwise_rows(const run *r, const band *s, int y, int rows, uint8_t *out, int out_pixel) {
    const fm_block *block = &fm_blocks[s->b];
    const fm_int8_depthwise *depthwise = &r->model->depthwise[s->b];
    const int size = block->size, stride = block->stride, out_size = size / stride, pad_top = stride == 1;
    const int rings = r->model->plan[s->b].ring_rows, repeat = depthwise->repeat;
    const size_t pixel = (size_t)(s->to - s->from), row = pixel * (size_t)(size + 2);
    const uint64_t start = tick(r);
    fm_int8_depthwise_args args = {
        .packed = fm_int8_depthwise_at(depthwise, s->from),
        .channels = (int)pixel * repeat,
        .pixels = out_size / repeat,
        .sets = depthwise->sets,
        .tap = pixel,
        .step = pixel * (size_t)(stride * repeat),
        .output = depthwise->output,
        .out_step = (size_t)(out_pixel * repeat),
        .out_row = (size_t)(out_size * out_pixel),
    };
    for (int done = 0; done < rows; done += 1 + args.two) {
        const int top = (y + done) * stride - pad_top;
        args.two = stride == 1 && done + 1 < rows;
        for (int t = 0; t < 4; t++) {
            const int inside = top + t >= 0 && top + t < size && t < 3 + args.two;
            const uint8_t *ring = r->own->ring + (size_t)((top + t) % rings) * row;
            args.rows[t] = inside ? ring + (pad_top ? 0 : pixel) : r->own->border;
        }
        args.out = out + (size_t)done * args.out_row;
        depthwise->kernels->depthwise(&args);
    }
    tock(r, fm_depthwise_layer(s->b), start);
    record(r, r->request->endpoints[fm_depthwise_endpoint(s->b)], out_size, block->expand, s->from, s->to, y * out_size,
           rows * out_size, out, out_pixel, 0);
}

/* Pixels [first, first + pixels) of a block's output from their depthwise outputs. */
static void project(const run *r, int b, int first, int pixels, const uint8_t *depthwise, const uint8_t *in,
                    uint8_t *out) {
    const fm_block *block = &fm_blocks[b];
    const fm_int8_add *add = &r->model->add[b];
    const int size = block->size / block->stride;
    uint8_t *c = out + first * block->out;
    if (pixels == 0) return;
    convolve(r, fm_project_layer(b), 0, block->out, depthwise, (size_t)block->expand, pixels, c, (size_t)block->out,
             pixels, 0);
    record(r, r->request->projections[b], size, block->out, 0, block->out, first, pixels, c, block->out, 0);
    if (fm_has_residual(block)) {
        const uint64_t start = tick(r);
        const fm_int8_add_args args = {c, in + first * block->out, c, (size_t)(pixels * block->out), add->packed,
                                       add->bias, add->shift, add->output};
        add->kernels->add(&args);
        tock(r, fm_project_layer(b), start);
    }
    for (int name = 0; name < 2; name++) {
        record(r, r->request->endpoints[fm_output_endpoint(b) + name], size, block->out, 0, block->out, first, pixels, c,
               block->out, 0);
    }
}

/* Threads share out the output's rows, some at a time: each expands a few rows that its neighbour does too, but need not
 * wait for it. */
static void run_block_by_rows(const run *r, int b, const uint8_t *in, uint8_t *out) {
    const fm_block *block = &fm_blocks[b];
    const int size = block->size, out_size = size / block->stride, turn = r->model->plan[b].turn;
    const int y0 = fm_share(r->team, out_size), y1 = fm_share(fm_next(r->team), out_size);
    band s = {b, 0, block->expand, most(y0 * block->stride - (block->stride == 1), 0)};
    if (y0 < y1) pad(r, &s);
    for (int y = y0; y < y1; y += turn) {
        const int rows = least(turn, y1 - y), needed = (y + rows - 1) * block->stride + (block->stride == 1 ? 2 : 3);
        expand_rows(r, &s, in, least(needed, size));
        depthwise_rows(r, &s, y, rows, r->own->depthwise, block->expand);
        project(r, b, y * out_size, rows * out_size, r->own->depthwise, in, out);
    }
    fm_wait(r->team);
}

/* Threads share out the expanded map's channels, whole blocks of the depthwise kernel, then the output's pixels. */
static void run_block_by_channels(const run *r, int b, const uint8_t *in, uint8_t *out) {
    const fm_block *block = &fm_blocks[b];
    const int out_size = block->size / block->stride, pixels = out_size * out_size;
    const int unit = 4 * r->model->depthwise[b].kernels->lanes, units = (block->expand + unit - 1) / unit;
    band s = {b, least(unit * fm_share(r->team, units), block->expand),
              least(unit * fm_share(fm_next(r->team), units), block->expand), 0};
    if (s.from < s.to) {
        pad(r, &s);
        expand_rows(r, &s, in, block->size);
        depthwise_rows(r, &s, 0, out_size, r->shared->depthwise + s.from, block->expand);
    }
    fm_wait(r->team);
    const int first = fm_share(r->team, pixels), end = fm_share(fm_next(r->team), pixels);
    project(r, b, first, end - first, r->shared->depthwise + first * block->expand, in, out);
    fm_wait(r->team);
}

/* ---- the end of the network ------------------------------------------------------------------------- */

/* in [3][3][240] -> features [1280]: the last 1x1 convolution and the average, by a table of its sums. */
static void head(const run *r, const uint8_t *in) {
    const fm_int8_model *model = r->model;
    const fm_block *last = &fm_blocks[FM_BLOCKS - 1];
    const fm_int8_conv *conv = &model->conv[FM_HEAD];
    const int size = last->size, pixels = size * size, unit = conv->kernels->lanes;
    const int from = unit * fm_share(r->team, FM_FEATURES / unit), to = unit * fm_share(fm_next(r->team), FM_FEATURES / unit);
    const size_t width = (size_t)(to - from);
    const int nan = atomic_load(&r->shared->nan[r->image % 2]);
    uint8_t *map = r->own->ring, *pooled = r->own->border;
    float *features = r->request->features + r->image * FM_FEATURES + from;
    uint16_t sums[FM_FEATURES] = {0};
    convolve(r, FM_HEAD, from, to, in, (size_t)last->out, pixels, map, width, pixels, 0);
    record(r, r->request->endpoints[FM_HEAD_ENDPOINT], size, FM_FEATURES, from, to, 0, pixels, map, (int)width, 0);
    for (int p = 0; p < pixels; p++) {
        for (size_t c = 0; c < width; c++) sums[c] = (uint16_t)(sums[c] + map[(size_t)p * width + c]);
    }
    for (size_t c = 0; c < width; c++) {
        pooled[c] = model->pool[sums[c]];
        features[c] = nan ? NAN : model->value[pooled[c]];
    }
    record(r, r->request->endpoints[FM_POOL_ENDPOINT], 1, FM_FEATURES, from, to, 0, 1, pooled, (int)width, 0);
    if (r->team.rank == 0) atomic_store(&r->shared->nan[(r->image + 1) % 2], 0);
}

/* ---- forward ---------------------------------------------------------------------------------------- */

static void forward_image(const run *r) {
    const uint8_t *in = NULL;
    load_image(r);
    for (int b = 0; b < FM_BLOCKS; b++) {
        uint8_t *out = r->shared->map[b % 2];
        if (r->model->plan[b].by_channels && r->team.size > 1) run_block_by_channels(r, b, in, out);
        else run_block_by_rows(r, b, in, out);
        in = out;
    }
    head(r, in);
    fm_wait(r->team); /* before the next image overwrites what the others still read */
}

/* At least as many images as threads: each thread takes whole images, and no barrier is needed. Else all threads work
 * on the same image. */
static int forward_all(const fm_int8_model *model, const fm_int8_request *request, int threads,
                       fm_int8_arena **arenas) {
    int outside = 0;
    atomic_size_t taken = 0;
    fm_barrier barrier = {0};
    const int together = request->n < (size_t)threads;
    FM_PRAGMA(omp parallel num_threads(threads) if (threads > 1) reduction(| : outside)) {
        const fm_fpenv saved = fm_fpenv_enter();
        const fm_team team = {fm_rank(), fm_team_size(), &barrier}, alone = {0, 1, NULL};
        fm_int8_arena *own = arenas[fm_rank()];
        if (together && fm_rank() == 0) atomic_store(&own->nan[0], 0);
        if (together) fm_wait(team);
        for (size_t next = 0;; next++) {
            const size_t i = together ? next : atomic_fetch_add(&taken, 1);
            if (i >= request->n) break;
            const run r = {model, request, i, together ? team : alone, together ? arenas[0] : own, own, &outside};
            if (!together) atomic_store(&own->nan[i % 2], 0);
            forward_image(&r);
        }
        fm_fpenv_leave(saved);
    }
    return outside;
}

fm_status fm_int8_forward(const fm_int8_model *model, const fm_int8_request *request, int *out_of_range) {
    enum { MAX_THREADS = 64 }; /* beyond the widest map's rows, more threads find nothing to do */
    fm_int8_model *cache = (fm_int8_model *)model; /* only its atomic list of idle arenas changes */
    fm_int8_arena *arenas[MAX_THREADS];
    if (request->n == 0) return FM_OK;

    const int threads = fm_openmp() ? least(most(request->threads, 1), MAX_THREADS) : 1;
    int taken = 0;
    while (taken < threads && (arenas[taken] = fm_int8_arena_take(cache)) != NULL) taken++;
    const int complete = taken == threads;
    if (complete && forward_all(model, request, threads, arenas)) *out_of_range = 1;
    while (taken > 0) fm_int8_arena_give(cache, arenas[--taken]);
    return complete ? FM_OK : FM_NO_MEMORY;
}

fm_status fm_int8_logits(const fm_int8_model *model, const uint8_t *features, size_t n, uint8_t *logits) {
    if (!model->has_logits) return FM_NO_LOGITS;
    const fm_int8_request request = {.ticks = NULL};
    const run r = {.model = model, .request = &request};
    const fm_fpenv saved = fm_fpenv_enter();
    for (size_t i = 0; i < n; i++) {
        convolve(&r, FM_LOGITS, 0, FM_CLASSES, features + i * FM_FEATURES, FM_FEATURES, 1, logits + i * FM_CLASSES,
                 FM_CLASSES, 1, 0);
    }
    fm_fpenv_leave(saved);
    return FM_OK;
}
