/* Advanced SIMD: 32 registers of 4 lanes, which every 64-bit ARM processor has. */
#include "int8/isa/vec_neon.h"

#define VOCABULARY "neon"
#define TABLE      fm_int8_neon
#define TILE_ROWS  9
#define TILE_VECS  2
#include "int8/tpl/table.inc"
