/* The state that every step of one call uses, in every tier. Internal to csrc/. */
#ifndef FM_WALK_H
#define FM_WALK_H

#include "net/model.h"
#include "parallel.h"
#include "ticks.h"

typedef struct run {
    const fm_model *model;
    const fm_request *request;
    size_t image0; /* index of the current group's first image */
    fm_team team;
    fm_arena *shared; /* the team's arena: maps */
    fm_arena *own;    /* this thread's arena: rows of the expanded map */
    void *depthwise;  /* the current block's depthwise outputs, from pixel `depthwise_pixel` on */
    int depthwise_pixel;
    /* This thread's flags: bit 0 reports float pixels far outside [0,1], and tiers may use the other bits. */
    int *out_of_range;
} run;

/* From `from` up to, but not including, `to`: rows, pixels or channels, according to the variable's name. */
typedef struct range {
    int from, to;
} range;

/* Output channels of a layer that are computed together: a panel, or the part of it in this thread's share. */
typedef struct slice {
    int panel, start, width;
} slice;

static inline const fm_block *block_of(const run *r, int b) { return &r->model->network.blocks[b]; }

/* Called around every kernel: if the caller asked for a profile, adds the time between both to the layer's total. */
static inline uint64_t tick(const run *r) { return r->request->ticks ? fm_read_ticks() : 0; }
static inline void tock(const run *r, int layer, uint64_t start) {
    if (r->request->ticks) r->request->ticks[layer] += fm_read_ticks() - start;
}

#endif
