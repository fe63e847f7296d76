/* The 8-bit tier's model. */
#ifndef FM_INT8_MODEL_H
#define FM_INT8_MODEL_H

#include "int8/pack.h"
#include "net/model.h"

typedef struct fm_int8_model {
    fm_model base;                /* must be first: pointers to it are cast to fm_int8_model */
    fm_int8_conv conv[FM_LAYERS]; /* empty for depthwise layers */
    fm_int8_depthwise depthwise[FM_BLOCKS];
    fm_int8_add add[FM_BLOCKS];                   /* for blocks with a residual */
    const int16_t *order[FM_BLOCKS];              /* of expanded channels; NULL for the file's order; see arrange.h */
    uint8_t image_zero, expanded_zero[FM_BLOCKS]; /* zero points of the image and of expanded maps */
    uint8_t *pool;                                /* see fm_int8_weights */
    float *feature, *logit;
} fm_int8_model;

extern const fm_tier fm_int8_tier;

#endif
