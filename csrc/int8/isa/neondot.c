/* Advanced SIMD with dot products: most 64-bit ARM processors since 2018. */
#define MULTIPLIES_QUADS
#include "int8/isa/vec_neon.h"

#define VOCABULARY "neondot"
#define TABLE      fm_int8_neondot
#define TILE_ROWS  9
#define TILE_VECS  2
#include "int8/tpl/table.inc"
