/* AVX-512 VNNI: 32 registers, four bytes a lane. 9 pixels x 3 vectors of sums, 3 of weights, 1 broadcast. */
#include "int8/isa/vec_zmm.h"

#define VOCABULARY "avx512vnni"
#define TABLE      fm_int8_avx512vnni
#define TILE_ROWS  9
#define TILE_VECS  3
#include "int8/tpl/table.inc"
