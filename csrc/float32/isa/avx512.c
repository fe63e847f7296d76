/* AVX-512F: 32 registers of 16 lanes. 9 rows x 3 vectors of accumulators, 3 of weights; broadcasts come
 * from memory inside the multiply-add. Every map has 9 x 4^k pixels, so 9 rows never leave a remainder. */
#include "float32/isa/vec_zmm.h"

#define VOCABULARY "avx512"
#define TABLE fm_float32_avx512
#define TILE_ROWS 9
#define TILE_VECS 3
#define DEPTHWISE_PIXELS 4
#include "float32/tpl/table.inc"
