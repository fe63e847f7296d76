/* Plain C for any processor: the reference. Its multiply-add rounds once on any hardware. */
#include "float32/isa/vec_scalar.h"

#define VOCABULARY       "scalar"
#define TABLE            fm_float32_scalar
#define TILE_ROWS        4
#define TILE_VECS        3
#define DEPTHWISE_ROWS   1
#define DEPTHWISE_PIXELS 2
#include "float32/tpl/table.inc"
