/* The contract between resize.c and the instruction-set files: one fm_image_kernels table per vocabulary.
 *
 * Every kernel of every table computes the same bits, those of TensorFlow on x86-64: a product is rounded, then added
 * and rounded again. No kernel fuses the two, splits a sum or reorders its terms.
 * A sample is `uint8 * unit` as float32. `unit` is 1 for values in [0,255] and float32(1/255) for values in [0,1], the
 * factor of tf.image.convert_image_dtype.
 *
 * Common to all kernels: no alignment is needed, nothing is read or written outside the arrays described here, and
 * outputs do not overlap inputs. */
#ifndef FM_IMAGE_KERNELS_H
#define FM_IMAGE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* out[i] = l + (r - l) * weights[i] for i < n, where l and r are the samples left[i] and right[i]. */
typedef struct fm_image_blend_columns_args {
    const uint8_t *left, *right;
    const float *weights;
    float unit, *out;
    int n;
} fm_image_blend_columns_args;

/* out[i] = upper[i] + (lower[i] - upper[i]) * weight for i < n. */
typedef struct fm_image_blend_rows_args {
    const float *upper, *lower;
    float weight, *out;
    int n;
} fm_image_blend_rows_args;

/* Adds `rows` rows of samples, `stride` bytes apart, to two sums: sums[s][i] += weights[r][s] * sample(r, i) for i < n,
 * row by row. The two sums belong to neighbouring output rows whose spans share these samples, so each is loaded once.
 */
typedef struct fm_image_add_rows_args {
    const uint8_t *samples;
    ptrdiff_t stride;
    int rows;
    const float (*weights)[2];
    float unit;
    float *sums[2];
    int n;
} fm_image_add_rows_args;

/* The inputs along one axis that make up each output: output o has counts[o] inputs from starts[o] on, with weights
 * weights[o * most + i]. Starts and ends never decrease from one output to the next. */
typedef struct fm_spans {
    const int32_t *starts, *counts;
    const float *weights;
    int outputs, most;
} fm_spans;

/* Adds pixels [first, stop) of a row of RGB to each output pixel o whose span contains them:
 * out[o][c] += weight * row[pixel - first][c]. One float past the last pixel is read and ignored. */
typedef struct fm_image_add_columns_args {
    const float *row;
    int first, stop;
    const fm_spans *spans;
    float *out;
} fm_image_add_columns_args;

/* Every kernel: its name, its arguments, its result. The table below, the templates' export and the checks are
 * generated from this list. */
#define FM_IMAGE_KERNELS(KERNEL)                             \
    KERNEL(blend_columns, fm_image_blend_columns_args, void) \
    KERNEL(blend_rows, fm_image_blend_rows_args, void)       \
    KERNEL(add_rows, fm_image_add_rows_args, void)           \
    KERNEL(add_columns, fm_image_add_columns_args, void)

typedef struct fm_image_kernels {
    const char *name;
#define KERNEL(name, arguments, result) result (*name)(const arguments *args);
    FM_IMAGE_KERNELS(KERNEL)
#undef KERNEL
} fm_image_kernels;

#define ROW_image(table, isa)                       extern const fm_image_kernels fm_image_##table;
#define ROW(tier, table, isa, check, images, flags) ROW_##tier(table, isa)
#include "isas.def"

#endif
