/* Advanced SIMD: 32 registers of 4 lanes. 9 rows x 2 vectors of accumulators are enough chains for four
 * pipes of latency 4, and leave room for the rows' inputs: with 3 vectors gcc spills three accumulators. The
 * inner loop (gcc 12) is 18 multiply-adds, 10 loads, a prefetch and 5 others for 72 MACs: 0.47 a MAC. */
#include "isa/vec_neon.h"

#define VOCABULARY "neon"
#define TABLE fm_kernels_neon
#define TILE_ROWS 9
#define TILE_VECS 2
#define DEPTHWISE_PIXELS 4
#include "tpl/table.inc"
