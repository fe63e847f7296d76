/* SSE2: 16 registers of 4 lanes, for x86-64 processors without AVX2 and FMA. Each multiply-add takes two dozen
 * instructions and their registers, so the size of the tile hardly matters. 2.8 times as fast as scalar.c. */
#include "float32/isa/vec_sse2.h"

#define VOCABULARY       "sse2"
#define TABLE            fm_float32_sse2
#define TILE_ROWS        4
#define TILE_VECS        3
#define DEPTHWISE_ROWS   1
#define DEPTHWISE_PIXELS 2
#include "float32/tpl/table.inc"
