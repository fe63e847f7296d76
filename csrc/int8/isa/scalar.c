/* Plain C for any processor: the reference. */
#include "int8/isa/vec_scalar.h"

#define VOCABULARY "scalar"
#define TABLE      fm_int8_scalar
#define TILE_ROWS  4
#define TILE_VECS  3
#include "int8/tpl/table.inc"
