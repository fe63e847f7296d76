/* AVX2: 16 registers, two 16-bit products a lane. 4 pixels x 3 vectors of sums, 3 of weights, 1 broadcast: all 16. */
#include "int8/isa/vec_ymm.h"

#define VOCABULARY "avx2"
#define TABLE      fm_int8_avx2
#define TILE_ROWS  4
#define TILE_VECS  3
#include "int8/tpl/table.inc"
