/* AVX-512: 32 registers of 16 lanes. 9 rows x 3 vectors of accumulators, 3 of weights; broadcasts come from memory.
 * At 96x96 every map has 9 x 4^k pixels, so 9 rows never leave a remainder.
 *
 * The 8 columns that 16 lanes may leave over go two rows to a register (tpl/pairs.inc). Share of the multiply-add
 * peak on a full-width Intel server (Granite Rapids, gcc 12, 144 rows, 96 to 144 deep; 256-bit vectors get 48 %):
 *
 *   rows by turns, weights doubled from memory     80 %   what is here
 *   the same, weights packed doubled               80 %   permutes saved, but twice the cache
 *   whole vectors as usual, only the half in pairs 75 %   28 loads for 24 multiply-adds; at 40 columns 80 %
 *   turned 16 k at a time, one step ahead          76 %   twice the loop ends, and no fewer stalls
 *   blends of two broadcasts                       75 %   at most: for 18 multiply-adds, 6 blends on their own ports
 *
 * The inner loop of 16 x 24 is 24 multiply-adds, 11 loads, 3 permutes and 1 prefetch, of 40 instructions.
 *
 * Depthwise tiles, rows x pixels, there (24, 12, 6 wide; 12 with stride 2; 75 % is the most where adds and clamps take
 * the multiply-adds' ports, but taps in the padding are counted): 1 x 4 66, 66, 65, 46 %; 2 x 2 72, 72, 79, 58;
 * 2 x 3 74, 74, 82, 58; 2 x 4 75, 73, 73, 51; 2 x 6 74, 72, 66, 58; the 1 x 4 before, with edges alone, 64, 62, 62, 48.
 */
#include "float32/isa/vec_zmm.h"

#define VOCABULARY       "avx512"
#define TABLE            fm_float32_avx512
#define TILE_ROWS        9
#define TILE_VECS        3
#define DEPTHWISE_ROWS   2
#define DEPTHWISE_PIXELS 3
#include "float32/tpl/table.inc"
