/* AVX-VNNI: 16 registers, four bytes a lane. 4 pixels x 3 vectors of sums, 3 of weights, 1 broadcast: all 16. */
#define MULTIPLIES_QUADS
#include "int8/isa/vec_ymm.h"

#define VOCABULARY "avxvnni"
#define TABLE      fm_int8_avxvnni
#define TILE_ROWS  4
#define TILE_VECS  3
#include "int8/tpl/table.inc"
