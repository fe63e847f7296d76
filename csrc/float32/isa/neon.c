/* Advanced SIMD: 32 registers of 4 lanes. 9 rows x 2 vectors of accumulators are enough chains for four pipes of
 * latency 4. They leave room for the rows' inputs, four k of each in a register: 29 registers in all. The inner loop
 * (gcc 12) has 72 multiply-adds, 16 loads, 4 prefetches and 12 other instructions for 288 MACs, or 0.36 per MAC. One
 * broadcast from memory per row and k would make it 0.47. With 3 vectors gcc spills three accumulators. */
#include "float32/isa/vec_neon.h"

#define VOCABULARY       "neon"
#define TABLE            fm_float32_neon
#define TILE_ROWS        9
#define TILE_VECS        2
#define DEPTHWISE_ROWS   2
#define DEPTHWISE_PIXELS 3
#include "float32/tpl/table.inc"
