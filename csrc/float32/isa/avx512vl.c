/* AVX-512VL: 32 registers of 8 lanes. Used for layers whose channels are not a multiple of 16 (24, 72, 120), on
 * processors that execute a 512-bit operation as two 256-bit ones (see cpu.h). */
#include "float32/isa/vec_ymm.h"

#define VOCABULARY       "avx512vl"
#define TABLE            fm_float32_avx512vl
#define TILE_ROWS        9
#define TILE_VECS        3
#define DEPTHWISE_ROWS   2
#define DEPTHWISE_PIXELS 3
#include "float32/tpl/table.inc"
