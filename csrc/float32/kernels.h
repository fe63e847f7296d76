/* The contract between network.c and the instruction-set files: one fm_kernels table per vocabulary.
 *
 * Every kernel of every table computes the same bits. Each output is one chain of fused multiply-adds:
 * start from zero, take the inputs in order (k for pointwise; tap row by tap row for the 3x3 kernels, taps
 * outside the image skipped), then add the bias, then the residual, then clamp. Nobody splits a chain. The
 * bias comes last because it is often the largest term: with it first, every partial sum is rounded at its
 * size, and the error of the first convolution is twice as large (1.24e-7 against 6.2e-8, relative L2, real
 * weights and photos; TensorFlow 5.5e-8).
 *
 * Common to all: float32, NHWC, no alignment needed, nothing is read or written outside the arrays as
 * described here, and outputs do not overlap inputs. */
#ifndef FM_KERNELS_H
#define FM_KERNELS_H

#include <stdint.h>

enum { FM_PEAK_CHAINS = 12 };

typedef enum fm_epilogue { FM_LINEAR, FM_RELU6, FM_RESIDUAL } fm_epilogue;

/* One panel of a pointwise convolution, or some of its columns: a [rows][k], panel (bias, then k rows, `ldb`
 * floats from one to the next) `vecs` vectors wide, c and residual (read by FM_RESIDUAL only) with `ldc`
 * floats from row to row. While it computes it prefetches `ahead_bytes` from `ahead`, the weights that will be
 * wanted next. */
typedef struct fm_pointwise_args {
    const float *a, *panel, *residual;
    float *c;
    int rows, k, ldb, ldc, vecs;
    fm_epilogue epilogue;
    const float *ahead;
    int ahead_bytes;
} fm_pointwise_args;

/* `out_rows` rows of a 3x3 depthwise convolution over `channels` channels, followed by ReLU6.
 * rows[stride * y + i] is the input row under tap row i of output row y, or NULL outside the image: in_width
 * pixels, `in_stride` floats from one to the next; out [out_rows][in_width / stride] likewise with
 * `out_stride`. packed holds bias and nine taps for each vector of channels. Stride 1 pads one column left
 * and right; stride 2 pads right only. */
typedef struct fm_depthwise_args {
    const float *const *rows;
    const float *packed;
    float *out;
    int channels, in_width, in_stride, out_rows, out_stride, stride;
} fm_depthwise_args;

typedef struct fm_kernels {
    const char *name;
    int lanes;        /* floats in a vector: panels and channel groups are multiples of it */
    int panel;        /* widest pointwise panel, in vectors */

    void (*pointwise)(const fm_pointwise_args *args);
    void (*depthwise)(const fm_depthwise_args *args);

    /* One output row of the 3x3 stride-2 first convolution with ReLU6.
     * rows[i] [96][3] in [-1,1], or NULL outside the image; out [48][24]. While it computes it prefetches
     * two image rows from `ahead`, image rows that will be wanted next. */
    void (*stem)(const float *const rows[3], const float *packed, float *out, const char *ahead);

    /* One image row, [96][3], to [-1,1]: 2 x - 1, x being float32 or uint8 * float32(1/255).
     * scale_f32 returns whether any |2 x - 1| is above 1.5. */
    int (*scale_f32)(const float *row, float *out);
    void (*scale_u8)(const uint8_t *row, float *out);

    /* Nine pixels of n channels -> [n]: added in order, then divided by 9. */
    void (*pool)(const float *map, int n, float *out);

    /* For measurements: `rounds` times FM_PEAK_CHAINS independent vector multiply-adds, as fast as they go.
     * Returns a number that depends on all of them. */
    float (*peak)(long rounds, float x, float y);
} fm_kernels;

/* A pointwise layer of n outputs is cut into ceil(n / (panel * lanes)) panels as even as can be, so
 * that no panel is left too narrow to hide the multiply-add latency. Panel p starts at this column. */
static inline int fm_panel_count(int n, int lanes, int panel) {
    return (n / lanes + panel - 1) / panel;
}
static inline int fm_panel_start(int n, int lanes, int panels, int p) {
    return (int)((int64_t)(n / lanes) * p / panels) * lanes;
}

#define ROW_int8(table)
#define ROW_float32(table) extern const fm_kernels fm_float32_##table;
#define ROW(tier, table, isa, check, images, flags) ROW_##tier(table)
#include "isas.def"
#undef ROW_float32
#undef ROW_int8

#endif
