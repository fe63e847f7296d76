/* Plain C for any processor. fmaf rounds once whatever the hardware, so this is the reference. */
#include "isa/vec_scalar.h"

#define VOCABULARY "scalar"
#define TABLE fm_kernels_scalar
#define TILE_ROWS 4
#define TILE_VECS 3
#include "tpl/table.inc"
