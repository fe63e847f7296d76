/* Working memory of one worker: one aligned block, kept by the model between calls. */
#ifndef FM_ARENA_H
#define FM_ARENA_H

#include "network.h"

enum {
    FM_ALIGN = 64,
    /* Images that share a sweep over the late blocks' weights. */
    FM_GROUP = 4,
    /* The largest map between blocks, [48][48][16]. */
    FM_MAP_FLOATS = 48 * 48 * 16,
    FM_EARLY_FLOATS = 6 * 6 * 48,
    /* The widest map of the late blocks, [6][6][432]; the head's [3][3][1280] fits as well. */
    FM_WIDE_FLOATS = 6 * 6 * 432,
    /* Three rows of the widest expanded map of the early blocks, [48][96]. */
    FM_RING_ROWS = 3,
    FM_ROW_FLOATS = 48 * 96,
    FM_IMAGE_ROW_FLOATS = FM_SIZE * 3
};

typedef struct fm_arena {
    float map[2][FM_MAP_FLOATS];                  /* a block's input and output */
    float early[FM_GROUP * FM_EARLY_FLOATS];      /* what the early blocks hand to the late ones */
    float expanded[FM_GROUP * FM_WIDE_FLOATS];    /* late blocks, whole maps */
    float depthwise[FM_GROUP * FM_WIDE_FLOATS];
    float ring[FM_RING_ROWS][FM_ROW_FLOATS];      /* early blocks, row by row */
    float row[FM_ROW_FLOATS];
    float image[3][FM_IMAGE_ROW_FLOATS];
} fm_arena;

void *fm_aligned_alloc(size_t bytes); /* FM_ALIGN-aligned or NULL */
void fm_aligned_free(void *block);

/* Take an idle arena of the model or make one (NULL: no memory); give it back. Safe from any thread. */
fm_arena *fm_arena_take(fm_model *model);
void fm_arena_give(fm_model *model, fm_arena *arena);
void fm_arena_free_all(fm_model *model);

#endif
