/* What every step of one call needs, whatever the tier. Internal to csrc/. */
#ifndef FM_WALK_H
#define FM_WALK_H

#include "net/model.h"
#include "parallel.h"
#include "ticks.h"

typedef struct run {
    const fm_model *model;
    const fm_request *request;
    size_t image0; /* index of the first image of the group at hand */
    fm_team team;
    fm_arena *shared; /* the team's: maps */
    fm_arena *own;    /* this thread's: rows of the expanded map */
    void *depthwise;  /* where the block at hand has its depthwise outputs, from pixel `depthwise_pixel` on */
    int depthwise_pixel;
    int *out_of_range; /* this thread's: bit 0 is set where float pixels are far outside [0,1]; others are the tier's */
} run;

/* Output channels of a layer that are computed together: a panel of it, or the part of one that is this thread's. */
typedef struct slice {
    int panel, start, width;
} slice;

static inline const fm_block *block_of(const run *r, int b) { return &r->model->network.blocks[b]; }

/* Around every kernel: adds the time between to the layer's, if the caller asked for a profile. */
static inline uint64_t tick(const run *r) { return r->request->ticks ? fm_read_ticks() : 0; }
static inline void tock(const run *r, int layer, uint64_t start) {
    if (r->request->ticks) r->request->ticks[layer] += fm_read_ticks() - start;
}

#endif
