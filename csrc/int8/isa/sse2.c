/* SSE2: 16 registers of 4 lanes, for x86-64 processors without AVX2. */
#include "int8/isa/vec_sse2.h"

#define VOCABULARY "sse2"
#define TABLE      fm_int8_sse2
#define TILE_ROWS  4
#define TILE_VECS  3
#include "int8/tpl/table.inc"
