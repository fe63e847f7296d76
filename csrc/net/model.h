/* The common part of a model of any tier. Internal to csrc/. */
#ifndef FM_MODEL_H
#define FM_MODEL_H

#include <stdatomic.h>

#include "net/arena.h"

/* The entry points of a tier. Arguments and results are those of fm_forward and fm_logits. */
typedef struct fm_tier {
    fm_status (*forward)(const fm_model *model, const fm_request *request, int *out_of_range);
    fm_status (*logits)(const fm_model *model, const float *features, size_t n, float *logits);
} fm_tier;

struct fm_model {
    const fm_tier *tier;
    fm_network network;
    fm_plan plan;
    void *packed; /* all weights, in the order they are used */
    size_t bytes;
    int has_logits;
    _Atomic(fm_arena *) idle[16]; /* arenas kept between calls */
};

#endif
