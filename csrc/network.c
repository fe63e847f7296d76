/* The whole computation: the block table, and forward(). Read this file first.
 *
 *   images -> stem -> 17 inverted residual blocks -> head -> pool -> features
 *
 * The early blocks' expanded maps are larger than the caches, so those blocks run row by row: expand the
 * rows that one output row needs, depthwise, project, while they are hot. The late blocks have few pixels
 * and many weights, so they run whole maps, several images to one sweep over the weights. */
#include "network.h"

#include <string.h>

#include "arena.h"
#include "fpenv.h"
#include "parallel.h"

/* slim/nets/mobilenet/mobilenet_v2.py at depth multiplier 0.75, channels rounded to multiples of 8. */
const fm_block fm_blocks[FM_BLOCKS] = {
    /* size  in  expand out stride */
    {48, 24, 24, 16, 1}, /* its "expansion" is the first convolution, from [96][96][3] */
    {48, 16, 96, 24, 2},
    {24, 24, 144, 24, 1},
    {24, 24, 144, 24, 2},
    {12, 24, 144, 24, 1},
    {12, 24, 144, 24, 1},
    {12, 24, 144, 48, 2},
    {6, 48, 288, 48, 1}, /* FIRST_LATE */
    {6, 48, 288, 48, 1},
    {6, 48, 288, 48, 1},
    {6, 48, 288, 72, 1},
    {6, 72, 432, 72, 1},
    {6, 72, 432, 72, 1},
    {6, 72, 432, 120, 2},
    {3, 120, 720, 120, 1},
    {3, 120, 720, 120, 1},
    {3, 120, 720, 240, 1},
};

enum { FIRST_LATE = 7, HEAD_SIZE = 3 };

/* What every step of one call needs. `image0` is the index of the first image of the group at hand. */
typedef struct run {
    const fm_model *model;
    const fm_request *request;
    size_t image0;
    fm_team team;
    fm_arena *shared; /* the team's: maps */
    fm_arena *own;    /* this thread's: rows */
    int *out_of_range; /* this thread's */
} run;

/* Copy `count` floats to a requested endpoint, `offset` floats into image `image`'s map. */
static void tap(const run *r, int endpoint, size_t image, size_t offset, const float *from, size_t count) {
    float *to = r->request->endpoints[endpoint];
    if (!to) return;
    const fm_endpoint shape = fm_endpoint_info(endpoint);
    const size_t map = (size_t)(shape.size * shape.size * shape.channels);
    memcpy(to + (r->image0 + image) * map + offset, from, count * sizeof(float));
}

static void tap_output(const run *r, int block, size_t image, size_t offset, const float *from, size_t count) {
    tap(r, fm_output_endpoint(block), image, offset, from, count);
    tap(r, fm_output_endpoint(block) + 1, image, offset, from, count);
}

/* a [rows][k] -> c [rows][n], panels [panel0, panel1). */
static void pointwise(const run *r, int layer, const float *a, int rows, int k, int n, float *c,
                      fm_epilogue epilogue, const float *residual, int panel0, int panel1) {
    const fm_conv *conv = &r->model->conv[layer];
    const fm_pointwise_args args = {a, conv->packed, residual, c, rows, k, n, panel0, panel1, epilogue};
    conv->kernels->pointwise(&args);
}

/* ---- early blocks: one image, row by row ------------------------------------------------------------ */

/* One row of the first convolution: image rows 2y .. 2y+2, the last of them outside at the bottom. */
static void stem_row(const run *r, size_t image, int y, float *out) {
    const fm_conv *conv = &r->model->conv[0];
    const size_t row_bytes = FM_IMAGE_ROW_FLOATS * (r->request->dtype == FM_UINT8 ? 1 : sizeof(float));
    const char *pixels = (const char *)r->request->images + (r->image0 + image) * FM_SIZE * row_bytes;
    const float *rows[3] = {NULL, NULL, NULL};
    for (int i = 0; i < 3 && 2 * y + i < FM_SIZE; i++) {
        const void *row = pixels + (size_t)(2 * y + i) * row_bytes;
        if (r->request->dtype == FM_UINT8) conv->kernels->scale_u8(row, r->own->image[i]);
        else *r->out_of_range |= conv->kernels->scale_f32(row, r->own->image[i]);
        rows[i] = r->own->image[i];
    }
    conv->kernels->stem(rows, conv->packed, out);
}

/* Output rows [y0, y1) of one image: in [size][size][in] -> out [size/stride][size/stride][out].
 * Block 0 reads the image instead of `in`. */
static void block_rows(const run *r, int b, size_t image, const float *in, float *out, int y0, int y1) {
    const fm_block *block = &fm_blocks[b];
    const fm_conv *depthwise = &r->model->conv[fm_depthwise_layer(b)];
    const int width = block->size / block->stride;
    const size_t in_row = (size_t)(block->size * block->in), out_row = (size_t)(width * block->out);
    const size_t wide_row = (size_t)(block->size * block->expand), narrow_row = (size_t)(width * block->expand);
    const int residual = fm_has_residual(block), pad_top = block->stride == 1;

    int ready = y0 * block->stride - pad_top; /* next row to expand */
    if (ready < 0) ready = 0;
    for (int y = y0; y < y1; y++) {
        const int top = y * block->stride - pad_top;
        for (; ready <= top + 2 && ready < block->size; ready++) {
            float *row = r->own->ring[ready % FM_RING_ROWS];
            if (b == 0) {
                stem_row(r, image, ready, row);
            } else {
                const int layer = fm_expand_layer(b);
                pointwise(r, layer, in + (size_t)ready * in_row, block->size, block->in, block->expand, row,
                          FM_RELU6, NULL, 0, r->model->conv[layer].panels);
            }
            tap(r, fm_expand_endpoint(b), image, (size_t)ready * wide_row, row, wide_row);
        }

        fm_depthwise_args args = {.packed = depthwise->packed, .out = r->own->row, .in_width = block->size,
                                  .channels = block->expand, .c0 = 0, .c1 = block->expand,
                                  .stride = block->stride};
        for (int i = 0; i < 3; i++) {
            const int row = top + i;
            args.rows[i] = row >= 0 && row < block->size ? r->own->ring[row % FM_RING_ROWS] : NULL;
        }
        depthwise->kernels->depthwise(&args);
        tap(r, fm_depthwise_endpoint(b), image, (size_t)y * narrow_row, r->own->row, narrow_row);

        const int layer = fm_project_layer(b);
        float *to = out + (size_t)y * out_row;
        pointwise(r, layer, r->own->row, width, block->expand, block->out, to,
                  residual ? FM_RESIDUAL : FM_LINEAR, residual ? in + (size_t)y * in_row : NULL, 0,
                  r->model->conv[layer].panels);
        tap_output(r, b, image, (size_t)y * out_row, to, out_row);
    }
}

/* One image through blocks 0 .. FIRST_LATE-1; the last one writes to `out` [6][6][48]. */
static void early_blocks(const run *r, size_t image, float *out) {
    const float *in = NULL;
    for (int b = 0; b < FIRST_LATE; b++) {
        const int rows = fm_blocks[b].size / fm_blocks[b].stride;
        float *to = b == FIRST_LATE - 1 ? out : r->shared->map[b % 2];
        block_rows(r, b, image, in, to, fm_share(r->team, rows), fm_share(fm_next(r->team), rows));
        fm_wait(r->team);
        in = to;
    }
}

/* ---- late blocks: whole maps of a group of images --------------------------------------------------- */

/* Every row of every image's map, channels [c0, c1). */
static void depthwise_maps(const run *r, int b, int images, int c0, int c1) {
    const fm_block *block = &fm_blocks[b];
    const fm_conv *conv = &r->model->conv[fm_depthwise_layer(b)];
    const int size = block->size, out_size = size / block->stride, pad_top = block->stride == 1;
    fm_depthwise_args args = {.packed = conv->packed, .in_width = size, .channels = block->expand, .c0 = c0,
                              .c1 = c1, .stride = block->stride};
    for (int i = 0; i < images; i++) {
        const float *map = r->shared->expanded + (size_t)(i * size * size * block->expand);
        float *out = r->shared->depthwise + (size_t)(i * out_size * out_size * block->expand);
        for (int y = 0; y < out_size; y++) {
            for (int t = 0; t < 3; t++) {
                const int row = y * block->stride - pad_top + t;
                args.rows[t] = row >= 0 && row < size ? map + (size_t)(row * size * block->expand) : NULL;
            }
            args.out = out + (size_t)(y * out_size * block->expand);
            conv->kernels->depthwise(&args);
        }
    }
}

/* in [images][size][size][in] -> out likewise. Threads share out channels: a thread's depthwise reads only
 * the expanded channels that it made itself, so the two need no barrier between them. */
static void block_maps(const run *r, int b, int images, const float *in, float *out) {
    const fm_block *block = &fm_blocks[b];
    const int size = block->size, out_size = size / block->stride;
    const int in_pixels = images * size * size, out_pixels = images * out_size * out_size;
    const fm_team team = r->team, next = fm_next(team);

    const int expand = fm_expand_layer(b);
    const fm_conv *conv = &r->model->conv[expand];
    const int p0 = fm_share(team, conv->panels), p1 = fm_share(next, conv->panels);
    pointwise(r, expand, in, in_pixels, block->in, block->expand, r->shared->expanded, FM_RELU6, NULL, p0, p1);
    depthwise_maps(r, b, images, fm_panel_start(block->expand, conv->kernels->lanes, conv->panels, p0),
                   fm_panel_start(block->expand, conv->kernels->lanes, conv->panels, p1));
    fm_wait(team);

    const int project = fm_project_layer(b), panels = r->model->conv[project].panels;
    const int residual = fm_has_residual(block);
    pointwise(r, project, r->shared->depthwise, out_pixels, block->expand, block->out, out,
              residual ? FM_RESIDUAL : FM_LINEAR, in, fm_share(team, panels), fm_share(next, panels));
    if (team.rank == 0) {
        tap(r, fm_expand_endpoint(b), 0, 0, r->shared->expanded, (size_t)(in_pixels * block->expand));
        tap(r, fm_depthwise_endpoint(b), 0, 0, r->shared->depthwise, (size_t)(out_pixels * block->expand));
    }
    fm_wait(team);
    if (team.rank == 0) tap_output(r, b, 0, 0, out, (size_t)(out_pixels * block->out));
}

/* in [images][3][3][240] -> features [images][1280]: the last 1x1 convolution and the average. */
static void head(const run *r, int images, const float *in) {
    const fm_conv *conv = &r->model->conv[FM_HEAD];
    const int pixels = HEAD_SIZE * HEAD_SIZE, panels = conv->panels, lanes = conv->kernels->lanes;
    const int p0 = fm_share(r->team, panels), p1 = fm_share(fm_next(r->team), panels);
    const int c0 = fm_panel_start(FM_FEATURES, lanes, panels, p0);
    const int c1 = fm_panel_start(FM_FEATURES, lanes, panels, p1);
    float *map = r->shared->expanded;
    pointwise(r, FM_HEAD, in, images * pixels, fm_blocks[FM_BLOCKS - 1].out, FM_FEATURES, map, FM_RELU6, NULL, p0,
              p1);
    for (int i = 0; i < images; i++) {
        conv->kernels->pool(map + (size_t)(i * pixels * FM_FEATURES), FM_FEATURES, c0, c1,
                            r->request->features + (r->image0 + (size_t)i) * FM_FEATURES);
    }
    fm_wait(r->team); /* before the next group reuses the map, and before the taps */
    if (r->team.rank == 0) {
        tap(r, FM_HEAD_ENDPOINT, 0, 0, map, (size_t)(images * pixels * FM_FEATURES));
        tap(r, FM_POOL_ENDPOINT, 0, 0, r->request->features + r->image0 * FM_FEATURES,
            (size_t)(images * FM_FEATURES));
    }
}

/* ---- forward ---------------------------------------------------------------------------------------- */

static void forward_group(const run *r, int images) {
    for (int i = 0; i < images; i++) early_blocks(r, (size_t)i, r->shared->early + i * FM_EARLY_FLOATS);

    const float *in = r->shared->early;
    for (int b = FIRST_LATE; b < FM_BLOCKS; b++) {
        float *out = r->shared->map[b % 2];
        block_maps(r, b, images, in, out);
        in = out;
    }
    head(r, images, in);
}

/* At least as many images as threads: each thread takes whole groups, and no barrier is needed. */
static int forward_apart(const fm_model *model, const fm_request *request, int threads, fm_arena **arenas) {
    int outside = 0;
    const size_t n = request->n, each = (n + (size_t)threads - 1) / (size_t)threads;
    const size_t size = each < FM_GROUP ? each : FM_GROUP;
    const long long groups = (long long)((n + size - 1) / size);
    (void)threads;
    FM_PRAGMA(omp parallel num_threads(threads) if (threads > 1) reduction(| : outside)) {
        const fm_fpenv saved = fm_fpenv_enter();
        fm_arena *arena = arenas[fm_rank()];
        FM_PRAGMA(omp for schedule(dynamic))
        for (long long g = 0; g < groups; g++) {
            const size_t first = (size_t)g * size, left = n - first;
            const run r = {model, request, first, {0, 1}, arena, arena, &outside};
            forward_group(&r, (int)(left < size ? left : size));
        }
        fm_fpenv_leave(saved);
    }
    return outside;
}

/* Fewer images than threads: all threads work on the same group. */
static int forward_together(const fm_model *model, const fm_request *request, int threads, fm_arena **arenas) {
    int outside = 0;
    (void)threads;
    FM_PRAGMA(omp parallel num_threads(threads) reduction(| : outside)) {
        const fm_fpenv saved = fm_fpenv_enter();
        for (size_t first = 0; first < request->n; first += FM_GROUP) {
            const size_t left = request->n - first;
            const run r = {model, request, first, {fm_rank(), fm_team_size()}, arenas[0], arenas[fm_rank()],
                           &outside};
            forward_group(&r, (int)(left < FM_GROUP ? left : FM_GROUP));
        }
        fm_fpenv_leave(saved);
    }
    return outside;
}

fm_status fm_forward(const fm_model *model, const fm_request *request, int *out_of_range) {
    enum { MAX_THREADS = 64 }; /* beyond the widest map's rows, more threads find nothing to do */
    fm_model *cache = (fm_model *)model; /* only its atomic list of idle arenas changes */
    fm_arena *arenas[MAX_THREADS];
    if (request->n == 0) return FM_OK;

    int threads = request->threads < 1 ? 1 : request->threads;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (!fm_openmp()) threads = 1;
    int taken = 0;
    while (taken < threads && (arenas[taken] = fm_arena_take(cache)) != NULL) taken++;
    const int complete = taken == threads;
    if (complete) {
        const int together = request->n < (size_t)threads;
        if ((together ? forward_together : forward_apart)(model, request, threads, arenas)) *out_of_range = 1;
    }
    while (taken > 0) fm_arena_give(cache, arenas[--taken]);
    return complete ? FM_OK : FM_NO_MEMORY;
}

fm_status fm_logits(const fm_model *model, const float *features, size_t n, float *logits) {
    if (!model->has_logits) return FM_NO_LOGITS;
    const fm_conv *conv = &model->conv[FM_LOGITS];
    float padded[FM_PADDED_CLASSES];
    const fm_fpenv saved = fm_fpenv_enter();
    for (size_t i = 0; i < n; i++) {
        const fm_pointwise_args args = {features + i * FM_FEATURES, conv->packed, NULL, padded, 1, FM_FEATURES,
                                        FM_PADDED_CLASSES, 0, conv->panels, FM_LINEAR};
        conv->kernels->pointwise(&args);
        memcpy(logits + i * FM_CLASSES, padded, sizeof(float) * FM_CLASSES);
    }
    fm_fpenv_leave(saved);
    return FM_OK;
}

int fm_openmp(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

int fm_max_threads(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}
