/* Advanced SIMD: 32 registers of 4 lanes. 9 rows x 2 vectors of accumulators are enough chains for four
 * pipes of latency 4, and leave room for the rows' inputs, four k of each in a register: 29 in all. The inner
 * loop (gcc 12) is 72 multiply-adds, 16 loads, 4 prefetches and 12 others for 288 MACs: 0.36 a MAC, where one
 * broadcast from memory for each row and k made 0.47, and with 3 vectors gcc spills three accumulators. */
#include "float32/isa/vec_neon.h"

#define VOCABULARY       "neon"
#define TABLE            fm_float32_neon
#define TILE_ROWS        9
#define TILE_VECS        2
#define DEPTHWISE_ROWS   2
#define DEPTHWISE_PIXELS 3
#include "float32/tpl/table.inc"
