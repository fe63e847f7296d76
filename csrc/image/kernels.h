/* The contract between resize.c and the instruction-set files: one fm_image_kernels table per vocabulary.
 *
 * Every kernel of every table computes the same bits, which are TensorFlow's on x86-64: a product is rounded, then
 * added and rounded again; nothing is fused, and nobody splits a sum or takes its terms in another order.
 * A sample is `uint8 * unit` as float32, with unit 1 for values in [0,255], and float32(1/255) for [0,1], by which
 * tf.image.convert_image_dtype multiplies.
 *
 * Common to all: no alignment needed, nothing is read or written outside the arrays as described here, and outputs
 * do not overlap inputs. */
#ifndef FM_IMAGE_KERNELS_H
#define FM_IMAGE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* out[i] = l + (r - l) * weights[i] for i < n, l and r being the samples left[i] and right[i]. */
typedef struct fm_blend_columns_args {
    const uint8_t *left, *right;
    const float *weights;
    float unit, *out;
    int n;
} fm_blend_columns_args;

/* out[i] = upper[i] + (lower[i] - upper[i]) * weight for i < n. */
typedef struct fm_blend_rows_args {
    const float *upper, *lower;
    float weight, *out;
    int n;
} fm_blend_rows_args;

/* `rows` rows of samples, `stride` bytes from one to the next, added to two sums at once:
 * sums[s][i] += weights[r][s] * sample(r, i) for i < n, row by row. A sample is on its way out of one output row's
 * span and into the next one's, so both take it from one load. */
typedef struct fm_add_rows_args {
    const uint8_t *samples;
    ptrdiff_t stride;
    int rows;
    const float (*weights)[2];
    float unit;
    float *sums[2];
    int n;
} fm_add_rows_args;

/* Which inputs of an axis an output is made of: `counts[o]` of them from starts[o] on, each with its weight in
 * weights[o * most + i]. Neither starts nor ends go back from one output to the next. */
typedef struct fm_spans {
    const int32_t *starts, *counts;
    const float *weights;
    int outputs, most;
} fm_spans;

/* Pixels `first` to `stop` of a row of RGB, added to each output pixel in turn whose span has some of them:
 * out[o][c] += weight * row[pixel - first][c]. One float after the last pixel is read, whatever it is. */
typedef struct fm_add_columns_args {
    const float *row;
    int first, stop;
    const fm_spans *spans;
    float *out;
} fm_add_columns_args;

/* Every kernel. The table's members, its entries and the checks are made of this list; kernel k takes fm_k_args. */
#define FM_IMAGE_KERNELS(KERNEL) KERNEL(blend_columns) KERNEL(blend_rows) KERNEL(add_rows) KERNEL(add_columns)

typedef struct fm_image_kernels {
    const char *name;
#define KERNEL(kernel) void (*kernel)(const fm_##kernel##_args *args);
    FM_IMAGE_KERNELS(KERNEL)
#undef KERNEL
} fm_image_kernels;

#define ROW_image(table, isa)                       extern const fm_image_kernels fm_image_##table;
#define ROW(tier, table, isa, check, images, flags) ROW_##tier(table, isa)
#include "isas.def"

#endif
