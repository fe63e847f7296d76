/* AVX-512: 32 registers of 16 lanes. 9 rows x 3 vectors of accumulators, 3 of weights; broadcasts come from memory.
 * At 96x96 every map has 9 x 4^k pixels, so 9 rows never leave a remainder.
 *
 * If 16 does not divide the columns, the last 8 columns of two rows share a register (tpl/pairs.inc). Ways to do that,
 * in shares of the multiply-add peak (Granite Rapids, full width, gcc 12, 144 rows, 96 to 144 deep; 256-bit vectors
 * reach 48 %):
 *
 *   rows interleaved, weights doubled while loading   80 %   used here
 *   the same, weights packed doubled                  80 %   saves the permutes, but takes twice the cache
 *   whole vectors as usual, only the last 8 in pairs  75 %   28 loads for 24 multiply-adds; 80 % at 40 columns
 *   interleaving 16 k at a time, one step ahead       76 %   twice as many loop ends, and no fewer stalls
 *   blends of two broadcasts                          75 %   at most: 6 blends for 18 multiply-adds, on the same ports
 *
 * The inner loop for 16 x 24 has 40 instructions, of which 24 are multiply-adds, 11 loads, 3 permutes and 1 a prefetch.
 *
 * Depthwise tiles on the same machine, in shares of the peak. Adds and clamps compete with multiply-adds for ports,
 * which limits the share to 75 %; taps in the padding are counted, so small maps can exceed it.
 *
 *   rows x pixels   24 wide   12 wide   6 wide   12 wide, stride 2
 *   1 x 4           66 %      66 %      65 %     46 %
 *   2 x 2           72 %      72 %      79 %     58 %
 *   2 x 3           74 %      74 %      82 %     58 %   used here
 *   2 x 4           75 %      73 %      73 %     51 %
 *   2 x 6           74 %      72 %      66 %     58 %
 */
#include "float32/isa/vec_zmm.h"

#define VOCABULARY       "avx512"
#define TABLE            fm_float32_avx512
#define TILE_ROWS        9
#define TILE_VECS        3
#define DEPTHWISE_ROWS   2
#define DEPTHWISE_PIXELS 3
#include "float32/tpl/table.inc"
