/* The whole computation: the block table, and forward(). Read this file first.
 *
 *   images -> stem -> 17 inverted residual blocks -> head -> pool -> features
 *
 * A block's expanded map, six times as wide as its input, is never stored whole: one slice of its channels
 * (one weight panel) at a time is expanded into a small ring of rows and put through the depthwise kernel
 * while it is in the nearest cache. The early blocks have many pixels and go image by image; the late ones
 * have many weights and go through several images with each panel. */
#include "net/network.h"

#include <string.h>

#include "net/arena.h"
#include "fpenv.h"
#include "parallel.h"
#include "ticks.h"

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
    {6, 48, 288, 48, 1}, /* FIRST_STREAMED */
    {6, 48, 288, 48, 1},
    {6, 48, 288, 48, 1},
    {6, 48, 288, 72, 1},
    {6, 72, 432, 72, 1},
    {6, 72, 432, 72, 1},
    {6, 72, 432, 120, 2},
    {3, 120, 720, 120, 1}, /* FIRST_GROUPED */
    {3, 120, 720, 120, 1},
    {3, 120, 720, 240, 1},
};

enum {
    FIRST_STREAMED = 7, /* from here on weights are fetched ahead: they come from the outer caches */
    FIRST_GROUPED = 14, /* from here on several images share a sweep; 6x6 maps of four would not fit with it */
    HEAD_SIZE = 3,
    PIXEL_TILE = 9 /* every map has 9 x 4^k pixels; the widest tile has as many rows */
};

/* What every step of one call needs. `image0` is the index of the first image of the group at hand. */
typedef struct run {
    const fm_model *model;
    const fm_request *request;
    size_t image0;
    fm_team team;
    fm_arena *shared;  /* the team's: maps */
    fm_arena *own;     /* this thread's: slices of the expanded map */
    int *out_of_range; /* this thread's */
} run;

/* A pointwise layer's output channels that are computed together: a panel, or the part of one that is this
 * thread's share. `panel` is the channel that the panel starts with, `panel_width` its row length. */
typedef struct slice {
    int start, width, panel, panel_width;
} slice;

/* The part of panel p between channels `from` and `to`; empty if there is none. */
static slice slice_of(const fm_conv *conv, int channels, int p, int from, int to) {
    const int lanes = conv->kernels->lanes, start = fm_panel_start(channels, lanes, conv->panels, p);
    const int end = fm_panel_start(channels, lanes, conv->panels, p + 1);
    const int first = start > from ? start : from, last = end < to ? end : to;
    return (slice){first, last > first ? last - first : 0, start, end - start};
}

/* Where the share of one of the team in a layer's output channels starts: whole vectors, any panel. */
static int share_channels(const fm_conv *conv, int channels, fm_team team) {
    const int lanes = conv->kernels->lanes;
    return fm_share(team, channels / lanes) * lanes;
}

/* Copy a slice of `pixels` pixels to a requested endpoint; `pixel` counts through the group's images. */
static void tap(const run *r, int endpoint, int pixel, int pixels, slice s, const float *from, int stride) {
    float *to = r->request->endpoints[endpoint];
    if (!to) return;
    const fm_endpoint shape = fm_endpoint_info(endpoint);
    const size_t first = r->image0 * (size_t)(shape.size * shape.size) + (size_t)pixel;
    for (int i = 0; i < pixels; i++) {
        memcpy(to + (first + (size_t)i) * (size_t)shape.channels + s.start, from + (size_t)i * (size_t)stride,
               sizeof(float) * (size_t)s.width);
    }
}

/* Around every kernel: adds the time between to the layer's, if the caller asked for a profile. */
static uint64_t tick(const run *r) { return r->request->ticks ? fm_read_ticks() : 0; }
static void tock(const run *r, int layer, uint64_t start) {
    if (r->request->ticks) r->request->ticks[layer] += fm_read_ticks() - start;
}

/* One slice of a pointwise layer: a [rows][k] -> c, `ldc` floats from row to row. */
static void pointwise_slice(const run *r, int layer, slice s, const float *a, int rows, int k, float *c, int ldc,
                            fm_epilogue epilogue, const float *residual, int ahead) {
    const fm_conv *conv = &r->model->conv[layer];
    const uint64_t start = tick(r);
    const int floats = s.panel_width * (k + 1);
    const float *panel = conv->packed + (size_t)s.panel * (size_t)(k + 1);
    const fm_pointwise_args args = {a, panel + (s.start - s.panel), residual, c, rows, k, s.panel_width, ldc,
                                    s.width, epilogue, panel + floats,
                                    ahead ? floats * (int)sizeof(float) : 0};
    conv->kernels->pointwise(&args);
    tock(r, layer, start);
}

/* ---- expand and depthwise: slice by slice, so that the expanded map never leaves the nearest cache ---- */

/* Row y of the first convolution: image rows 2y .. 2y+2, the last of them outside at the bottom. Scaled
 * image rows are kept from one call to the next; `fresh` says that there are none yet. */
static void stem_row(const run *r, int y, int fresh, float *out) {
    const fm_conv *conv = &r->model->conv[0];
    const size_t row_bytes = FM_IMAGE_ROW_FLOATS * (r->request->dtype == FM_UINT8 ? 1 : sizeof(float));
    const char *pixels = (const char *)r->request->images + r->image0 * FM_SIZE * row_bytes;
    const float *rows[3] = {NULL, NULL, NULL};
    const uint64_t start = tick(r);
    for (int i = 0; i < 3 && 2 * y + i < FM_SIZE; i++) {
        float *scaled = r->own->image[(2 * y + i) % 3];
        rows[i] = scaled;
        if (i == 0 && !fresh) continue;
        const void *row = pixels + (size_t)(2 * y + i) * row_bytes;
        fm_scale_args scale = r->model->scale;
        scale.from = row;
        scale.to = scaled;
        if (r->request->dtype == FM_UINT8) conv->kernels->scale_u8(&scale);
        else *r->out_of_range |= conv->kernels->scale_f32(&scale);
    }
    /* The rows of the call after the next: a batch lies in the outer caches. */
    const fm_stem_args args = {.rows = rows, .packed = conv->packed, .out = out, .width = FM_SIZE,
                               .outputs = fm_blocks[0].expand, .ahead = pixels + (size_t)(2 * y + 5) * row_bytes,
                               .ahead_bytes = 2 * (int)row_bytes};
    conv->kernels->stem(&args);
    tock(r, 0, start);
}

/* Rows [from, to) of a block's expanded map, one slice, into the ring, whose oldest row is still wanted. In
 * the place of an expansion block 0 has the first convolution and reads the image. */
static void expand_rows(const run *r, int b, const float *in, slice s, int oldest, int from, int to) {
    const fm_block *block = &fm_blocks[b];
    const int size = block->size, ring_rows = FM_RING_PIXELS / size;
    for (int row = from, count; row < to; row += count) {
        const int slot = row % ring_rows;
        float *out = r->own->ring + (size_t)(slot * size * s.width);
        if (b == 0) {
            count = 1;
            stem_row(r, row, row == oldest, out);
        } else {
            count = to - row < ring_rows - slot ? to - row : ring_rows - slot;
            pointwise_slice(r, fm_expand_layer(b), s, in + (size_t)(row * size * block->in), count * size,
                            block->in, out, s.width, FM_RELU6, NULL, b >= FIRST_STREAMED);
        }
        tap(r, fm_expand_endpoint(b), row * size, count * size, s, out, s.width);
    }
}

/* One slice of a block up to its depthwise output, for output rows [y0, y1) of each image:
 * in [images][size][size][in] -> shared->depthwise [images][size/stride][size/stride][expand].
 *
 * Expanded rows go to a ring that holds as many as fit the nearest cache: three rows of the widest map, all
 * rows of a group of the smallest. They are counted through the images: row g is row g % size of image
 * g / size. Each turn fills the ring and takes from it as many output rows as it can give. */
static void block_slice(const run *r, int b, int images, const float *in, slice s, int y0, int y1) {
    const fm_block *block = &fm_blocks[b];
    const fm_conv *conv = &r->model->conv[fm_depthwise_layer(b)];
    const int size = block->size, stride = block->stride, out_size = size / stride, pad_top = stride == 1;
    const int ring_rows = FM_RING_PIXELS / size, row_floats = size * s.width;
    const int needed = (y1 - 1) * stride - pad_top + 3, end = (images - 1) * size + (needed < size ? needed : size);

    const float *rows[FM_RING_PIXELS / HEAD_SIZE + 2];
    fm_depthwise_args args = {.rows = rows, .packed = conv->packed + s.start * 10, .channels = s.width,
                              .in_width = size, .in_stride = s.width, .out_stride = block->expand, .stride = stride};
    int ready = 0; /* rows before this one have been expanded */
    for (int i = 0; i < images; i++) {
        const int base = i * size;
        for (int y = y0; y < y1; y += args.out_rows) {
            const int top = y * stride - pad_top, oldest = base + (top > 0 ? top : 0);
            const int stop = oldest + ring_rows < end ? oldest + ring_rows : end;
            if (ready < oldest) ready = oldest;
            expand_rows(r, b, in, s, oldest, ready, stop);
            if (ready < stop) ready = stop;

            /* The last input row that an output row needs is the one below the image at the bottom. */
            const int whole = (ready - base >= size ? size + 1 : ready - base) - top - 3;
            args.out_rows = whole / stride + 1 < y1 - y ? whole / stride + 1 : y1 - y;
            for (int t = 0; t < (args.out_rows - 1) * stride + 3; t++) {
                const int row = top + t, inside = row >= 0 && row < size;
                rows[t] = inside ? r->own->ring + (size_t)((base + row) % ring_rows * row_floats) : NULL;
            }
            const int pixel = (i * out_size + y) * out_size;
            args.out = r->shared->depthwise + (size_t)pixel * (size_t)block->expand + s.start;
            const uint64_t start = tick(r);
            conv->kernels->depthwise(&args);
            tock(r, fm_depthwise_layer(b), start);
            tap(r, fm_depthwise_endpoint(b), pixel, args.out_rows * out_size, s, args.out, block->expand);
        }
    }
}

/* ---- a whole block ---------------------------------------------------------------------------------- */

/* Output channels [from, to) of pixels [row0, row1): shared->depthwise [pixels][expand] -> out [pixels][out]. */
static void project(const run *r, int b, int row0, int row1, int from, int to, const float *in, float *out) {
    const fm_block *block = &fm_blocks[b];
    const fm_conv *conv = &r->model->conv[fm_project_layer(b)];
    const float *a = r->shared->depthwise + (size_t)row0 * (size_t)block->expand;
    const int rows = row1 - row0, residual = fm_has_residual(block);
    if (rows == 0) return;
    for (int p = 0; p < conv->panels; p++) {
        const slice s = slice_of(conv, block->out, p, from, to);
        const size_t at = (size_t)(row0 * block->out + s.start);
        if (s.width == 0) continue;
        pointwise_slice(r, fm_project_layer(b), s, a, rows, block->expand, out + at, block->out,
                        residual ? FM_RESIDUAL : FM_LINEAR, residual ? in + at : NULL, b >= FIRST_STREAMED);
        tap(r, fm_output_endpoint(b), row0, rows, s, out + at, block->out);
        tap(r, fm_output_endpoint(b) + 1, row0, rows, s, out + at, block->out);
    }
}

/* A block of large maps; in [size][size][in] -> out [size/stride][size/stride][out]. Threads share out its
 * rows: each computes a few expanded rows that its neighbour does too, but need not wait for it in between. */
static void run_block_by_rows(const run *r, int b, const float *in, float *out) {
    const fm_block *block = &fm_blocks[b];
    const fm_conv *expand = &r->model->conv[fm_expand_layer(b)];
    const int out_size = block->size / block->stride, panels = b == 0 ? 1 : expand->panels;
    const int y0 = fm_share(r->team, out_size), y1 = fm_share(fm_next(r->team), out_size);
    for (int p = 0; p < panels && y0 < y1; p++) {
        const slice whole = {0, block->expand, 0, block->expand};
        const slice s = b == 0 ? whole : slice_of(expand, block->expand, p, 0, block->expand);
        block_slice(r, b, 1, in, s, y0, y1);
    }
    project(r, b, y0 * out_size, y1 * out_size, 0, block->out, in, out);
    fm_wait(r->team);
}

/* A block of small maps; in [images][size][size][in] -> out [images][size/stride][size/stride][out]. Threads
 * share out its channels, then pixels where there is more than a tile for each, else channels again. */
static void run_block_by_channels(const run *r, int b, int images, const float *in, float *out) {
    const fm_block *block = &fm_blocks[b];
    const fm_conv *expand = &r->model->conv[fm_expand_layer(b)], *last = &r->model->conv[fm_project_layer(b)];
    const fm_team team = r->team, next = fm_next(team);
    const int out_size = block->size / block->stride, pixels = images * out_size * out_size;
    const int from = share_channels(expand, block->expand, team), to = share_channels(expand, block->expand, next);
    for (int p = 0; p < expand->panels; p++) {
        const slice s = slice_of(expand, block->expand, p, from, to);
        if (s.width > 0) block_slice(r, b, images, in, s, 0, out_size);
    }
    fm_wait(team);
    if (pixels >= 2 * PIXEL_TILE * team.size) {
        const int tiles = pixels / PIXEL_TILE;
        const int row0 = PIXEL_TILE * fm_share(team, tiles), row1 = PIXEL_TILE * fm_share(next, tiles);
        project(r, b, row0, row1, 0, block->out, in, out);
    } else {
        const int first = share_channels(last, block->out, team), end = share_channels(last, block->out, next);
        project(r, b, 0, pixels, first, end, in, out);
    }
    fm_wait(team);
}

/* in [images][3][3][240] -> features [images][1280]: the last 1x1 convolution and the average. */
static void head(const run *r, int images, const float *in) {
    const fm_conv *conv = &r->model->conv[FM_HEAD];
    const int pixels = HEAD_SIZE * HEAD_SIZE, depth = fm_blocks[FM_BLOCKS - 1].out;
    const int from = share_channels(conv, FM_FEATURES, r->team);
    const int to = share_channels(conv, FM_FEATURES, fm_next(r->team));
    for (int p = 0; p < conv->panels; p++) {
        const slice s = slice_of(conv, FM_FEATURES, p, from, to);
        float *map = r->own->ring;
        if (s.width == 0) continue;
        pointwise_slice(r, FM_HEAD, s, in, images * pixels, depth, map, s.width, FM_RELU6, NULL, 1);
        tap(r, FM_HEAD_ENDPOINT, 0, images * pixels, s, map, s.width);
        for (int i = 0; i < images; i++) {
            float *features = r->request->features + (r->image0 + (size_t)i) * FM_FEATURES + s.start;
            const fm_pool_args pool = {map + i * pixels * s.width, features, pixels, s.width};
            conv->kernels->pool(&pool);
            tap(r, FM_POOL_ENDPOINT, i, 1, s, features, s.width);
        }
    }
}

/* ---- forward ---------------------------------------------------------------------------------------- */

/* The blocks of larger maps work image by image, which keeps them in the cache; the last ones on the whole
 * group, so that each of their many weights is fetched once for all of its images. */
static void forward_group(const run *r, int images) {
    for (int i = 0; i < images; i++) {
        run one = *r;
        one.image0 += (size_t)i;
        const float *in = NULL;
        for (int b = 0; b < FIRST_GROUPED; b++) {
            const int last = b == FIRST_GROUPED - 1;
            float *out = last ? r->shared->early + i * FM_EARLY_FLOATS : r->shared->map[b % 2];
            if (b < FIRST_STREAMED) run_block_by_rows(&one, b, in, out);
            else run_block_by_channels(&one, b, 1, in, out);
            in = out;
        }
    }
    const float *in = r->shared->early;
    for (int b = FIRST_GROUPED; b < FM_BLOCKS; b++) {
        float *out = r->shared->map[b % 2];
        run_block_by_channels(r, b, images, in, out);
        in = out;
    }
    head(r, images, in);
    fm_wait(r->team); /* before the next group overwrites what the others still read */
}

/* How many images a thread takes next: a group, and fewer towards the end, so that all end together. */
static size_t next_images(size_t left, int threads) {
    const size_t fair = left / (2 * (size_t)threads);
    return fair >= FM_GROUP || threads == 1 ? (left < FM_GROUP ? left : FM_GROUP) : fair > 0 ? fair : 1;
}

/* At least as many images as threads: each thread takes whole images, and no barrier is needed. */
static int forward_apart(const fm_model *model, const fm_request *request, int threads, fm_arena **arenas) {
    int outside = 0;
    atomic_size_t taken = 0;
    FM_PRAGMA(omp parallel num_threads(threads) if (threads > 1) reduction(| : outside)) {
        const fm_fpenv saved = fm_fpenv_enter();
        fm_arena *arena = arenas[fm_rank()];
        for (size_t first = atomic_load(&taken); first < request->n;) {
            const size_t images = next_images(request->n - first, threads);
            if (!atomic_compare_exchange_weak(&taken, &first, first + images)) continue;
            const run r = {model, request, first, {0, 1, NULL}, arena, arena, &outside};
            forward_group(&r, (int)images);
            first = atomic_load(&taken);
        }
        fm_fpenv_leave(saved);
    }
    return outside;
}

/* Fewer images than threads: all threads work on the same group. */
static int forward_together(const fm_model *model, const fm_request *request, int threads, fm_arena **arenas) {
    int outside = 0;
    fm_barrier barrier = {0};
    (void)threads;
    FM_PRAGMA(omp parallel num_threads(threads) reduction(| : outside)) {
        const fm_fpenv saved = fm_fpenv_enter();
        const fm_team team = {fm_rank(), fm_team_size(), &barrier};
        for (size_t first = 0; first < request->n; first += FM_GROUP) {
            const size_t left = request->n - first;
            const run r = {model, request, first, team, arenas[0], arenas[fm_rank()], &outside};
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
    const fm_request request = {.ticks = NULL};
    const run r = {.model = model, .request = &request};
    float padded[FM_PADDED_CLASSES];
    const fm_fpenv saved = fm_fpenv_enter();
    for (size_t i = 0; i < n; i++) {
        for (int p = 0; p < conv->panels; p++) {
            const slice s = slice_of(conv, FM_PADDED_CLASSES, p, 0, FM_PADDED_CLASSES);
            pointwise_slice(&r, FM_LOGITS, s, features + i * FM_FEATURES, 1, FM_FEATURES, padded + s.start,
                            FM_PADDED_CLASSES, FM_LINEAR, NULL, 1);
        }
        memcpy(logits + i * FM_CLASSES, padded, sizeof(float) * FM_CLASSES);
    }
    fm_fpenv_leave(saved);
    return FM_OK;
}

uint64_t fm_ticks(void) { return fm_read_ticks(); }

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
