/* The contract between the 8-bit walk and its instruction-set files: one fm_int8_kernels table per vocabulary.
 *
 * Activations are unsigned bytes. For int8 files, 128 is added to values and zero points, which leaves every sum
 * unchanged. Every kernel of every table computes the same bytes, those of LiteRT's default engine on x86-64:
 *
 *   sum   = bias + sum(x * w), exact in int32; w is the weight minus its zero point, and the bias includes
 *           the input's zero point
 *   byte  = clamp(round_half_even(float32(sum) * scale) + zero), each step in float32
 *
 * Inputs are read in quads: four bytes, multiplied by four weights of every output. A table cuts a quad into PARTS, one
 * multiply instruction each: 1 where the processor has dot products of four bytes, 2 where it multiplies pairs of
 * 16 bits, 4 where it multiplies one at a time. pack.c lays weights out accordingly.
 *
 * Common to all: NHWC, no alignment needed; nothing is written outside the outputs described here, and inputs may
 * be read up to FM_INT8_SLACK bytes past their end. Outputs do not overlap inputs. */
#ifndef FM_INT8_KERNELS_H
#define FM_INT8_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum { FM_INT8_SLACK = 64, FM_INT8_PEAK_CHAINS = 12, FM_INT8_MAX_STEPS = 640, FM_INT8_PAIR_MAX = 128 };

/* How sums become bytes. `plain` means that zero is 0 and the clamp is [0, 255], so that saturation does both, and that
 * sums and scales are in the range of the following shortcut to float32.
 *
 * Tables with a fused multiply-add get a bias that includes FM_INT8_MAGIC, the bits of the float 2^23. For any sum from
 * 0 to 2^23 - 1, the bits of the result, read as a float, are then 2^23 + sum. A fused multiply-add with scale and
 * -2^23 * scale, which is exact, gives float32(sum) * scale, correctly rounded once. Smaller sums give a negative
 * number, and larger sums a number of at least sum * scale, so both saturate as they should. */
typedef struct fm_int8_output {
    int zero, low, high, plain;
} fm_int8_output;

enum { FM_INT8_MAGIC = 0x4b000000 };

/* Some columns of one panel of a convolution, at most TILE_VECS vectors wide. Pixel i of the input starts at
 * a + i * lda; its quad k is `offsets[k]` bytes further. Output pixel i starts at c + i * ldc, plus `gap` for each
 * `width` pixels before it. In the last vector only the first `columns` are written.
 *
 * Tables with a pair_max begin with quads whose weights are bytes: 2 * doubles + singles of them, `part` bytes apart.
 * A single obeys pair_max alone; the two quads of a double obey it together. The other `steps` quads, which all tables
 * have, use weights that are `ldw` bytes apart from step to step and `part` bytes from part to part. There are at most
 * FM_INT8_MAX_STEPS quads if they are cut into parts. */
typedef struct fm_int8_conv_args {
    const uint8_t *a;
    size_t lda;
    int pixels, doubles, singles, steps;
    const int32_t *offsets; /* [2 * doubles + singles + steps] */
    const char *weights;
    size_t ldw, part;
    const int32_t *bias;
    const float *scale, *offset; /* offset: -2^23 * scale */
    int columns;
    fm_int8_output output;
    uint8_t *c;
    size_t ldc, gap;
    int width;
} fm_int8_conv_args;

/* One or two output rows (`two`) of a 3x3 depthwise convolution over `channels` channels. rows[0..2] are the input
 * rows of the first output row, rows[1..3] those of the second; rows[3] is always readable. Output pixel x
 * reads three columns that start at x * step and are `tap` bytes apart. It is stored at out + x * out_step, in the
 * second row `out_row` bytes further. Rows include borders, which the caller has padded with the zero point. In tables
 * with `deep` 1, `step` is `tap` or, if `two` is 0, may also be 2 * tap.
 *
 * `packed` holds blocks of deep * lanes channels: `sets` sets of weights that add up to the weights (one set if all
 * weights fit). A set has three columns for the first output row (w0 w1 w2 0 in a quad of four rows), then three for
 * the second (0 w0 w1 w2). After the sets come bias, scale and -2^23 * scale. */
typedef struct fm_int8_depthwise_args {
    const uint8_t *rows[4];
    const char *packed;
    int channels, pixels, two, sets;
    size_t tap, step;
    fm_int8_output output;
    uint8_t *out;
    size_t out_step, out_row;
} fm_int8_depthwise_args;

/* out[i] = clamp(((a[i] * ma + b[i] * mb + bias) >> shift) + zero), n a multiple of 8; out may be a or b. `packed` has
 * three quads (ma, mb, 0, 0) of signed digits. The total is 1, 256 and 65536 times their dot products. */
typedef struct fm_int8_add_args {
    const uint8_t *a, *b;
    uint8_t *out;
    size_t n;
    const char *packed;
    int32_t bias;
    int shift;
    fm_int8_output output;
} fm_int8_add_args;

/* float32 pixels to bytes, round_half_even(255 x), clamped; NaN becomes 0. Returns FM_INT8_OUT_OF_RANGE if any pixel is
 * below -0.25 or above 1.25, plus FM_INT8_NAN if any is NaN. */
typedef struct fm_int8_image_args {
    const float *pixels;
    uint8_t *out;
    size_t n;
} fm_int8_image_args;

enum { FM_INT8_OUT_OF_RANGE = 1, FM_INT8_NAN = 2 };

/* For measurements: `rounds` times FM_INT8_PEAK_CHAINS independent vector dot products of one quad. Returns a number
 * that depends on all of them. */
typedef struct fm_int8_peak_args {
    long rounds;
    int32_t x, w;
} fm_int8_peak_args;

/* Every kernel: its name, its arguments, its result. The table below, the templates' export and the checks are
 * generated from this list. */
#define FM_INT8_KERNELS(KERNEL)                     \
    KERNEL(conv, fm_int8_conv_args, void)           \
    KERNEL(depthwise, fm_int8_depthwise_args, void) \
    KERNEL(add, fm_int8_add_args, void)             \
    KERNEL(image, fm_int8_image_args, int)          \
    KERNEL(peak, fm_int8_peak_args, int32_t)

typedef struct fm_int8_kernels {
    const char *name;
    int lanes; /* int32 sums in a vector */
    int vecs;  /* widest panel, in vectors */
    int rows;  /* tallest tile, in pixels */
    int parts; /* parts of a quad */
    int bytes; /* bytes of a weight: 1 or 2 */
    int deep;  /* vectors in a block of depthwise channels: 4, or 1 if the kernel slides along a row */
    /* FM_INT8_PAIR_MAX in tables whose conv adds products in 16 bits, otherwise 0. It is the max sum of the two
     * weights that multiply bytes 0 and 1 of a quad, or 2 and 3; positive and negative weights are summed separately.
     * pack_pairs.c explains it. */
    int pair_max;
    int magic;    /* whether the bias of plain sums includes FM_INT8_MAGIC */
    int x_offset; /* subtracted from each input byte by the kernels; the bias compensates for it */
#define KERNEL(name, arguments, result) result (*name)(const arguments *args);
    FM_INT8_KERNELS(KERNEL)
#undef KERNEL
} fm_int8_kernels;

/* The channel of lane `lane` of vector `vec` in a depthwise block of four vectors. Interleaving four rows within
 * 128-bit lanes gives this order, and narrowing within 128-bit lanes restores the original one. */
static inline int fm_int8_channel(int lanes, int vec, int lane) {
    const int unit = lanes < 4 ? lanes : 4;
    return lane / unit * 4 * unit + unit * vec + lane % unit;
}

#define ROW_int8(table)                             extern const fm_int8_kernels fm_int8_##table;
#define ROW(tier, table, isa, check, images, flags) ROW_##tier(table)
#include "isas.def"

#endif
