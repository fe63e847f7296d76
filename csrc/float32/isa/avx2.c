/* AVX2 + FMA: 16 registers. 4 rows x 3 vectors of accumulators, 3 of weights, 1 broadcast: all 16. */
#include "float32/isa/vec_ymm.h"

#define VOCABULARY       "avx2"
#define TABLE            fm_float32_avx2
#define TILE_ROWS        4
#define TILE_VECS        3
#define DEPTHWISE_ROWS   1
#define DEPTHWISE_PIXELS 2
#include "float32/tpl/table.inc"
