/* Plain C for any processor. Its multiply-add rounds once whatever the hardware, so this is the reference. */
#include "isa/vec_scalar.h"

#define VOCABULARY "scalar"
#define TABLE fm_kernels_scalar
#define TILE_ROWS 4
#define TILE_VECS 3
#define DEPTHWISE_PIXELS 2
#include "tpl/table.inc"
