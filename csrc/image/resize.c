#include "image/resize.h"

#include <string.h>

#include "fpenv.h"

enum {
    CHANNELS = 3,
    BLEND_PIXELS = 128,  /* output pixels interpolated per call */
    BLOCK_PIXELS = 2048, /* input columns summed per block: their two sums stay in L2 */
    COPY_PIXELS = 512,   /* the same if pixels are not adjacent in memory and are copied first */
    GROUP_ROWS = 8       /* rows added per call, while the sums stay in registers */
};

static int min(int a, int b) { return a < b ? a : b; }

static const uint8_t *pixel(const fm_picture *picture, int y, int x) {
    return picture->first + y * picture->row_stride + x * picture->pixel_stride;
}

/* ---- bilinear ------------------------------------------------------------------------------- */

/* Some output columns. Pixels are copied four bytes at a time, so buffers have one extra byte at the end. */
typedef struct blend {
    const fm_image_kernels *kernels;
    const fm_picture *picture;
    const int32_t *left, *right;
    float unit, weights[BLEND_PIXELS * CHANNELS];
    int pixels, wide; /* the first `wide` pixels have a right neighbour, so that four bytes can be read */
} blend;

static void copy_pixels(const blend *b, int y, const int32_t *columns, uint8_t *to) {
    const uint8_t *row = pixel(b->picture, y, 0);
    const ptrdiff_t stride = b->picture->pixel_stride;
    int i = 0;
    for (; i < b->wide; i++) memcpy(to + i * CHANNELS, row + columns[i] * stride, CHANNELS + 1);
    for (; i < b->pixels; i++) memcpy(to + i * CHANNELS, row + columns[i] * stride, CHANNELS);
}

static void blend_row(const blend *b, int y, float *out) {
    uint8_t left[BLEND_PIXELS * CHANNELS + 1], right[BLEND_PIXELS * CHANNELS + 1];
    copy_pixels(b, y, b->left, left);
    copy_pixels(b, y, b->right, right);
    const fm_image_blend_columns_args args = {left, right, b->weights, b->unit, out, b->pixels * CHANNELS};
    b->kernels->blend_columns(&args);
}

/* Interpolated rows are kept: when a picture is enlarged, the next output row often lies between the same two. */
static void blend_pixels(const blend *b, const fm_places *rows, float *out, size_t out_stride) {
    float kept[2][BLEND_PIXELS * CHANNELS];
    int at[2] = {-1, -1};
    for (int o = 0; o < rows->outputs; o++, out += out_stride) {
        const int want[2] = {rows->first[o], rows->second[o]};
        float *found[2];
        for (int i = 0; i < 2; i++) {
            int slot = at[0] == want[i] ? 0 : 1;
            if (at[slot] != want[i]) {
                slot = i == 0 ? at[0] == want[1] : found[0] == kept[0]; /* replace the row that is not needed */
                blend_row(b, want[i], kept[slot]);
                at[slot] = want[i];
            }
            found[i] = kept[slot];
        }
        const fm_image_blend_rows_args args = {found[0], found[1], rows->place[o], out, b->pixels * CHANNELS};
        b->kernels->blend_rows(&args);
    }
}

void fm_resize_bilinear(const fm_image_kernels *kernels, const fm_picture *picture, const fm_places *rows,
                        const fm_places *columns, float unit, float *out) {
    const fm_fpenv saved = fm_fpenv_enter();
    const size_t out_stride = (size_t)columns->outputs * CHANNELS;
    blend b = {.kernels = kernels, .picture = picture, .unit = unit};
    for (int start = 0; start < columns->outputs; start += BLEND_PIXELS) {
        b.left = columns->first + start;
        b.right = columns->second + start;
        b.pixels = min(columns->outputs - start, BLEND_PIXELS);
        b.wide = 0;
        while (picture->pixel_stride > CHANNELS - 1 && b.wide < b.pixels && b.left[b.wide] < picture->width - 1 &&
               b.right[b.wide] < picture->width - 1) {
            b.wide++;
        }
        for (int i = 0; i < b.pixels * CHANNELS; i++) b.weights[i] = columns->place[start + i / CHANNELS];
        blend_pixels(&b, rows, out + (size_t)start * CHANNELS, out_stride);
    }
    fm_fpenv_leave(saved);
}

/* ---- area ----------------------------------------------------------------------------------- */

/* A block of input columns [first, stop), and the sums of two output rows over it. */
typedef struct block {
    const fm_image_kernels *kernels;
    const fm_picture *picture;
    const fm_spans *rows, *columns;
    int first, stop;
    float unit;
    float sums[2][BLOCK_PIXELS * CHANNELS + 1];
    uint8_t copied[GROUP_ROWS][COPY_PIXELS * CHANNELS];
} block;

/* 0 if row y is not in the output's span. Adding 0 changes no sum, because no sum is -0 or infinite. */
static float row_weight(const fm_spans *rows, int output, int y) {
    if (output == rows->outputs || y < rows->starts[output] || y >= rows->starts[output] + rows->counts[output])
        return 0.0f;
    return rows->weights[(size_t)output * (size_t)rows->most + (size_t)(y - rows->starts[output])];
}

/* Copies pixels of a turned or strided picture so that they are adjacent, as the kernel needs them. */
static void copy_turned(block *b, int y, int rows) {
    for (int x = b->first; x < b->stop; x++) {
        for (int r = 0; r < rows; r++) {
            memcpy(b->copied[r] + (x - b->first) * CHANNELS, pixel(b->picture, y + r, x), CHANNELS);
        }
    }
}

/* Adds input rows [first, stop) to output row `output` and, unless `alone`, to the next output row. */
static void add_rows(block *b, int output, int alone, int first, int stop) {
    float weights[GROUP_ROWS][2];
    fm_image_add_rows_args args = {.weights = (const float (*)[2])weights, .unit = b->unit};
    args.n = (b->stop - b->first) * CHANNELS;
    for (int s = 0; s < 2; s++) args.sums[s] = b->sums[(output + s) % 2];
    for (int y = first; y < stop; y += args.rows) {
        args.rows = min(stop - y, GROUP_ROWS);
        for (int r = 0; r < args.rows; r++) {
            weights[r][0] = row_weight(b->rows, output, y + r);
            weights[r][1] = alone ? 0.0f : row_weight(b->rows, output + 1, y + r);
        }
        if (b->picture->pixel_stride == CHANNELS) {
            args.samples = pixel(b->picture, y, b->first);
            args.stride = b->picture->row_stride;
        } else {
            copy_turned(b, y, args.rows);
            args.samples = b->copied[0];
            args.stride = sizeof b->copied[0];
        }
        b->kernels->add_rows(&args);
    }
}

static void finish_row(block *b, int output, float *out) {
    const fm_image_add_columns_args args = {
        .row = b->sums[output % 2], .first = b->first, .stop = b->stop, .spans = b->columns, .out = out};
    b->kernels->add_columns(&args);
}

/* A span usually ends before the span after next starts, so input rows are added to the sums of this output row and
 * of the next at once. Rows of this span beyond that start (one row after rounding, or all rows when a picture is
 * enlarged) are added to this sum alone before it is finished. */
static void add_block(block *b, float *out, size_t out_stride) {
    const fm_spans *rows = b->rows;
    const int outputs = rows->outputs;
    for (int o = 0; o < outputs; o++, out += out_stride) {
        const int end = rows->starts[o] + rows->counts[o];
        const int next = o + 1 < outputs ? rows->starts[o + 1] : end;
        const int after = o + 2 < outputs ? rows->starts[o + 2] : o + 1 < outputs ? next + rows->counts[o + 1] : end;
        if (o == 0) {
            memset(b->sums[0], 0, sizeof b->sums[0]);
            add_rows(b, o, 1, rows->starts[o], next);
        }
        memset(b->sums[(o + 1) % 2], 0, sizeof b->sums[0]);
        add_rows(b, o, 0, next, after);
        add_rows(b, o, 1, after, end);
        finish_row(b, o, out);
    }
}

void fm_resize_area(const fm_image_kernels *kernels, const fm_picture *picture, const fm_spans *rows,
                    const fm_spans *columns, float unit, float *out) {
    const fm_fpenv saved = fm_fpenv_enter();
    const size_t out_stride = (size_t)columns->outputs * CHANNELS;
    block b = {.kernels = kernels, .picture = picture, .rows = rows, .columns = columns, .unit = unit};
    memset(out, 0, (size_t)rows->outputs * out_stride * sizeof *out);
    const int most = picture->pixel_stride == CHANNELS ? BLOCK_PIXELS : COPY_PIXELS;
    for (b.first = 0; b.first < picture->width; b.first = b.stop) {
        b.stop = min(picture->width, b.first + most);
        add_block(&b, out, out_stride);
    }
    fm_fpenv_leave(saved);
}
