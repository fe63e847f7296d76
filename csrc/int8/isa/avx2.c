/* AVX2: 16 registers; pairs of bytes where the weights allow it, else two 16-bit products a lane. 3 pixels x 3 vectors
 * of sums leave room for products on their way, with weights read where they are used.
 *
 * Measured on Zen 3, all pointwise layers of Google's file, in us: 3x3 338; 4x2 358, 4x3 359, 6x2 363, 2x4 378, 3x4
 * 395. Cycles for a quad of such a tile: 8 of a double, 10 of a single, 13 of a wide one, where the multiplications
 * alone are 6.8, 9 and 9. No gain: quads cut into parts ahead, weights of wide quads kept in registers, four quads
 * added up in 16 bits (11 % of the multiply-adds of Google's file would allow it, none of a per-channel file's). In
 * per-channel files nine quads of ten are wide. There is no way round that: panels of 8 columns still have 83 % in
 * expanding layers, and to cut weights or inputs into parts that fit takes more multiplications than the two of a wide
 * quad. */
#include "int8/isa/vec_ymm.h"

#define VOCABULARY "avx2"
#define TABLE      fm_int8_avx2
#define TILE_ROWS  3
#define TILE_VECS  3
#include "int8/tpl/table.inc"
