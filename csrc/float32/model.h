/* The float32 tier's model. */
#ifndef FM_FLOAT32_MODEL_H
#define FM_FLOAT32_MODEL_H

#include <stddef.h>

#include "float32/pack.h"
#include "net/model.h"

typedef struct fm_float32_model {
    fm_model base; /* must be first: pointers to it are cast to fm_float32_model */
    fm_float32_conv conv[FM_LAYERS];
    fm_float32_scale_args scale; /* from pixels in [0,1] to the first convolution's input; rows are set in each call */
} fm_float32_model;

_Static_assert(offsetof(fm_float32_model, base) == 0, "a model of any tier begins with an fm_model");

extern const fm_tier fm_float32_tier;

#endif
