/* The contract between the network and the instruction-set files: one fm_float32_kernels table per vocabulary.
 *
 * Every kernel of every table computes the same bits. Each output is one chain of fused multiply-adds:
 * start from zero, take the inputs in order (k for pointwise; tap row by tap row for the 3x3 kernels, taps
 * outside the image skipped), then add the bias, then the residual, then clamp. A chain is never split. The
 * bias comes last because it is often the largest term. If it came first, every partial sum would be rounded to its
 * precision, and the error of the first convolution would double (1.24e-7 instead of 6.2e-8, relative L2, real
 * weights and photos; TensorFlow has 5.5e-8).
 *
 * Common to all: float32, NHWC, no alignment needed. Kernels read and write nothing outside the arrays described
 * here. Outputs do not overlap inputs. Channels, columns and outputs are multiples of the table's `unit`; kernels
 * know nothing else about a network. */
#ifndef FM_FLOAT32_KERNELS_H
#define FM_FLOAT32_KERNELS_H

#include <stdint.h>

enum { FM_FLOAT32_PEAK_CHAINS = 12 };

typedef enum fm_float32_epilogue { FM_LINEAR, FM_RELU6, FM_RESIDUAL } fm_float32_epilogue;

/* One panel of a pointwise convolution, or some of its columns: a [rows][k]; panel (bias, then k rows, `ldb` floats
 * apart) `columns` wide; c and residual (read by FM_RESIDUAL only) with rows `ldc` floats apart. Meanwhile the kernel
 * prefetches `ahead_bytes` from `ahead`, the weights that are used next. */
typedef struct fm_float32_pointwise_args {
    const float *a, *panel, *residual;
    float *c;
    int rows, k, ldb, ldc, columns;
    fm_float32_epilogue epilogue;
    const float *ahead;
    int ahead_bytes;
} fm_float32_pointwise_args;

/* `out_rows` rows of a 3x3 depthwise convolution over `channels` channels, followed by ReLU6.
 * rows[stride * y + i] is the input row under kernel row i of output row y, or NULL outside the map (only the first
 * and the last may be): in_width pixels, 1 or more, `in_stride` floats apart; out
 * [out_rows][in_width / stride, rounded up], pixels `out_stride` floats apart. packed holds bias and nine taps for each
 * vector of channels; the last vector may be half. Stride 1 pads a column on each side. Stride 2 pads one on the right,
 * and one on the left if the width is odd. */
typedef struct fm_float32_depthwise_args {
    const float *const *rows;
    const float *packed;
    float *out;
    int channels, in_width, in_stride, out_rows, out_stride, stride;
} fm_float32_depthwise_args;

/* One output row of the first convolution, 3x3 with stride 2 over 3 channels, followed by ReLU6.
 * rows[i] [width][3], or NULL outside the image (the first or the last, never both); packed holds the bias [outputs],
 * then [27][outputs]; out [width / 2, rounded up][outputs]. The width is 4 or more, padded on the right, and on the
 * left if it is odd. Meanwhile the kernel prefetches `ahead_bytes` from `ahead`, the image rows that are used next. */
typedef struct fm_float32_stem_args {
    const float *const *rows;
    const float *packed;
    float *out;
    int width, outputs;
    const void *ahead;
    int ahead_bytes;
} fm_float32_stem_args;

/* to[i] = x * multiplier + addend, one fused multiply-add, for `count` numbers, 16 or more: x is from[i], or for bytes
 * from[i] * float32(1/255). scale_f32 returns whether any result is above `limit` in magnitude. */
typedef struct fm_float32_scale_args {
    const void *from; /* float or uint8_t */
    float *to;
    int count;
    float multiplier, addend, limit;
} fm_float32_scale_args;

/* The average of each channel: map [pixels][channels] -> out [channels]. Adds in order, then divides. */
typedef struct fm_float32_pool_args {
    const float *map;
    float *out;
    int pixels, channels;
} fm_float32_pool_args;

/* For measurements: `rounds` times FM_FLOAT32_PEAK_CHAINS independent vector multiply-adds at full rate. Returns a
 * number that depends on all of them. */
typedef struct fm_float32_peak_args {
    long rounds;
    float x, y;
} fm_float32_peak_args;

/* Every kernel: its name, its arguments, its result. The table below, the templates' export, the checks and the benches
 * are generated from this list. */
#define FM_FLOAT32_KERNELS(KERNEL)                     \
    KERNEL(pointwise, fm_float32_pointwise_args, void) \
    KERNEL(depthwise, fm_float32_depthwise_args, void) \
    KERNEL(stem, fm_float32_stem_args, void)           \
    KERNEL(scale_f32, fm_float32_scale_args, int)      \
    KERNEL(scale_u8, fm_float32_scale_args, void)      \
    KERNEL(pool, fm_float32_pool_args, void)           \
    KERNEL(peak, fm_float32_peak_args, float)

typedef struct fm_float32_kernels {
    const char *name;
    int lanes; /* floats in a vector: panels and slices start at multiples of it */
    int unit;  /* channels are multiples of it: `lanes`, or half of that if a layer's last vector may be half */
    int panel; /* widest pointwise panel, in vectors */
    int rows;  /* rows of the tallest tile that is as wide as a panel */
#define KERNEL(name, arguments, result) result (*name)(const arguments *args);
    FM_FLOAT32_KERNELS(KERNEL)
#undef KERNEL
} fm_float32_kernels;

/* The number of vectors for n channels. */
static inline int fm_vectors(int n, int lanes) { return (n + lanes - 1) / lanes; }

/* A pointwise layer of n outputs is cut into the fewest panels, as evenly as possible, because a narrow panel can't
 * hide the multiply-add latency. fm_float32_panel_start is the first column of panel p. */
static inline int fm_float32_panel_count(int n, int lanes, int panel) {
    return fm_vectors(fm_vectors(n, lanes), panel);
}
static inline int fm_float32_panel_start(int n, int lanes, int panels, int p) {
    return p < panels ? (int)((int64_t)fm_vectors(n, lanes) * p / panels) * lanes : n;
}

#define ROW_float32(table)                          extern const fm_float32_kernels fm_float32_##table;
#define ROW(tier, table, isa, check, images, flags) ROW_##tier(table)
#include "isas.def"

#endif
