/* AVX2 + FMA: 16 registers. 4 rows x 3 vectors of accumulators, 3 of weights, 1 broadcast: all 16.
 *
 * Zen 3, one image on one thread, us for each kind of layer (min of 150 calls). Left: depthwise tiles of 1 x 2. Right:
 * the settings below. In brackets, the share of the multiply-add peak in the same run:
 *
 *   first convolution   40.1   39.3 (78 %)   includes scaling the image's rows
 *   depthwise            113    102 (65 %)
 *   expansion            444    437 (92 %)   stores, see below
 *   projection           293    291 (99 %)
 *
 * Where more than 8 sums are in flight, each 256-bit store delays the multiply-adds by 0.5 to 1 cycle: 12 to 18 cycles
 * for a tile of 4 x 3, whether its sums are clamped or not, and whatever their order. An expansion of 8 inputs reaches
 * 71 %, of 16 inputs 86 %, of 32 inputs 93 %. Stores of general registers cost nothing, and neither do vector stores
 * between dependent multiply-adds in 8 chains. (Measured with single loops in assembly.)
 *
 * Tried without gain:
 *   panels of two vectors for expansions of 8 to 64 inputs: the kernels gain 1 to 7 %, the networks lose 1 to 2 %
 *   tiles of 6 x 2; a whole expansion of 8 inputs without a loop; the epilogue column by column (gcc 12)
 *   depthwise: strips of columns that fit in L1; prefetching the next slice's outputs
 *   tiles of 3 x 4, depthwise tiles of 1 x 3 to 1 x 12 and 2 x 4 (in a prototype)
 *   inputs of depthwise tiles kept in registers, to load fewer taps (3x3 maps 10 % faster, most others 2 to 7 % slower)
 *   five rows in the ring of maps 48 wide, for two output rows with stride 2
 *   depthwise outputs to a buffer in L1, to measure what their stores cost (nothing)
 *   the first convolution's last pixel in a tile with its neighbours (10 % slower)
 *   arenas on huge pages */
#include "float32/isa/vec_ymm.h"

#define VOCABULARY "avx2"
#define TABLE      fm_float32_avx2
#define TILE_ROWS  4
#define TILE_VECS  3
#define FEW_REGISTERS
#define DEPTHWISE_ROWS   2
#define DEPTHWISE_PIXELS 3
#define DEPTHWISE_WHOLE_MAPS
#include "float32/tpl/table.inc"
