/* AVX2: 16 registers. Multiplies pairs of bytes if the weights allow it, otherwise two 16-bit products per lane. Sums
 * of 3 pixels x 3 vectors leave registers for products; weights are read from memory at each use.
 *
 * Pixels x vectors of a tile, time of all pointwise layers of Google's file (us, Zen 3): 3x3 338; 4x2 358, 4x3 359, 6x2
 * 363, 2x4 378, 3x4 395. Cycles for a quad of a 3x3 tile: 8 in a double, 10 for a single, 13 for a wide one. The
 * multiplications alone take 6.8, 9 and 9.
 *
 * Tried without gain: cutting quads into parts beforehand; weights of wide quads in registers; four quads added in 16
 * bits, which 11 % of the multiply-adds of Google's file allow, and none of a per-channel file; prefetching the next
 * panel and depthwise weights, which helps float32 (1.0/224 took up to 4 % longer).
 *
 * In per-channel files nine of ten quads are wide. This can't be avoided: in expanding layers, panels of 8 columns
 * still have 83 %, and cutting weights or inputs into parts that fit takes more than the two multiplications of a wide
 * quad. */
#include "int8/isa/vec_ymm.h"

#define VOCABULARY "avx2"
#define TABLE      fm_int8_avx2
#define TILE_ROWS  3
#define TILE_VECS  3
#include "int8/tpl/table.inc"
