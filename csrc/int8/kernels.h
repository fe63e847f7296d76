/* The contract between the 8-bit walk and its instruction-set files: one fm_int8_kernels table per vocabulary.
 *
 * Activations are unsigned bytes, whatever the file's type: int8 files are moved by 128, which leaves every sum as
 * it is once the zero points are moved too. Every kernel of every table computes the same bytes, and they are those
 * of LiteRT's default engine on x86-64:
 *
 *   sum   = bias + sum(x * w), exact in int32; w is the weight less its zero point, and the bias has taken up
 *           the input's zero point
 *   byte  = clamp(round_half_even(float32(sum) * scale) + zero), each step in float32
 *
 * Inputs are read in quads: four bytes that meet four weights of every output. A table cuts a quad into PARTS, one
 * multiply instruction each: 1 where the processor has dot products of four bytes, 2 where it multiplies pairs of
 * 16 bits, 4 where it multiplies one at a time. pack.c lays weights out accordingly.
 *
 * Common to all: NHWC, no alignment needed; nothing is written outside the outputs described here, and inputs may
 * be read up to FM_INT8_SLACK bytes behind their last one. Outputs do not overlap inputs. */
#ifndef FM_INT8_KERNELS_H
#define FM_INT8_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum { FM_INT8_SLACK = 64, FM_INT8_PEAK_CHAINS = 12, FM_INT8_MOST_STEPS = 640, FM_INT8_PAIR_MOST = 128 };

/* How sums become bytes. `plain` says that zero is 0 and the clamp [0, 255], so that saturation does both, and that
 * sums and scales are within what the shorter way to float32 takes:
 *
 * Tables with a fused multiply-add are given a bias with FM_INT8_MAGIC added, the bits of the float 2^23. The bits of
 * the sum, read as a float, are then 2^23 + sum for any sum from 0 to 2^23 - 1, and a fused multiply-add with scale and
 * -2^23 * scale, which is exact, makes them float32(sum) * scale, rounded once as it should be. Smaller sums give
 * something below zero, and larger ones something that is at least as large: they saturate all the same. */
typedef struct fm_int8_output {
    int zero, low, high, plain;
} fm_int8_output;

enum { FM_INT8_MAGIC = 0x4b000000 };

/* Some columns of one panel of a convolution, at most TILE_VECS vectors wide. Pixel i of the input starts at
 * a + i * lda; its quads stand `offsets[k]` bytes from there. Pixel i goes to c + i * ldc, plus `gap` for each `width`
 * pixels before it. Of the last vector only what makes up `columns` is written.
 *
 * Tables with a pair_most take some quads first whose weights are bytes: 2 * doubles + singles of them, `part` bytes
 * from one to the next. A single obeys pair_most by itself, and the two quads of a double do so together. The other
 * `steps` quads, of all tables, meet weights that stand `ldw` bytes from one step to the next and `part` bytes from one
 * part to the next. Quads are at most FM_INT8_MOST_STEPS where they are cut into parts. */
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
 * rows of the first output row, rows[1..3] those of the second; without one rows[3] is readable all the same. Output
 * pixel x reads the three columns at x * step, and `tap` bytes further each; it goes to out + x * out_step, in the
 * second row `out_row` bytes further. Borders are there to be read: the caller pads with the zero point. Where blocks
 * are one vector deep, `step` is one or two taps, and the second only without `two`.
 *
 * `packed` holds blocks of deep * lanes channels: `sets` of weights, whose sum is the weight (one where all fit), each
 * for the first output row (w0 w1 w2 0 in a quad of four rows) and for the second (0 w0 w1 w2), three columns each;
 * then bias, scale and -2^23 * scale. */
typedef struct fm_int8_depthwise_args {
    const uint8_t *rows[4];
    const char *packed;
    int channels, pixels, two, sets;
    size_t tap, step;
    fm_int8_output output;
    uint8_t *out;
    size_t out_step, out_row;
} fm_int8_depthwise_args;

/* out[i] = clamp((a[i] * ma + b[i] * mb + bias) >> shift) + zero), n a multiple of 8; out may be a or b. `packed` has
 * three weights quads (ma, mb, 0, 0), to be added up as 1, 256 and 65536 times the dot product. */
typedef struct fm_int8_add_args {
    const uint8_t *a, *b;
    uint8_t *out;
    size_t n;
    const char *packed;
    int32_t bias;
    int shift;
    fm_int8_output output;
} fm_int8_add_args;

/* float32 pixels to bytes, round_half_even(255 x), clamped. */
typedef struct fm_int8_image_args {
    const float *pixels;
    uint8_t *out;
    size_t n;
    int out_of_range, nan; /* results: any pixel below -0.25 or above 1.25, any NaN (which becomes 0) */
} fm_int8_image_args;

/* Every kernel of a table: X(name, arguments). Tables, checks and benches are made of this list. */
#define FM_INT8_KERNELS(X)                       \
    X(conv, const fm_int8_conv_args *)           \
    X(depthwise, const fm_int8_depthwise_args *) \
    X(add, const fm_int8_add_args *)             \
    X(image, fm_int8_image_args *)

typedef struct fm_int8_kernels {
    const char *name;
    int lanes; /* int32 sums in a vector */
    int vecs;  /* widest panel, in vectors */
    int rows;  /* tallest tile, in pixels */
    int parts; /* of a quad */
    int bytes; /* of a weight: 1 or 2 */
    int deep;  /* vectors in a block of depthwise channels: 4, or 1 where the kernel slides along a row */
    /* Tables whose conv adds products up in 16 bits have FM_INT8_PAIR_MOST here, others 0: what those weights that meet
     * bytes 0 and 1 of a quad, or 2 and 3, may add up to, positive and negative ones apart. pack_pairs.c says why. */
    int pair_most;
    int magic;    /* whether plain sums come with FM_INT8_MAGIC */
    int x_offset; /* what the kernels take away from each input byte, which the bias gives back */
#define MEMBER(name, args) void (*name)(args);
    FM_INT8_KERNELS(MEMBER)
#undef MEMBER
    /* For measurements: `rounds` times FM_INT8_PEAK_CHAINS independent vector dot products of one quad. Returns a
     * number that depends on all of them. */
    int32_t (*peak)(long rounds, int32_t x, int32_t w);
} fm_int8_kernels;

/* Channel of lane `lane` of vector `vec` of a depthwise block that is four vectors deep: what interleaving four rows
 * within 128-bit lanes leaves, and narrowing within 128-bit lanes puts back. */
static inline int fm_int8_channel(int lanes, int vec, int lane) {
    const int unit = lanes < 4 ? lanes : 4;
    return lane / unit * 4 * unit + unit * vec + lane % unit;
}

#define ROW_int8(table)                             extern const fm_int8_kernels fm_int8_##table;
#define ROW(tier, table, isa, check, images, flags) ROW_##tier(table)
#include "isas.def"

#endif
