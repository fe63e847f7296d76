/* Working memory of one worker: one aligned block, kept by the model between calls. */
#ifndef FM_ARENA_H
#define FM_ARENA_H

#include "net/network.h"

enum {
    FM_ALIGN = 64,
    /* Images that share a sweep over the weights of the last blocks. */
    FM_GROUP = 4,
    /* The largest map between blocks, [48][48][16]. */
    FM_MAP_FLOATS = 48 * 48 * 16,
    /* What the early blocks hand to the late ones, an image. */
    FM_EARLY_FLOATS = 3 * 3 * 120,
    /* The largest depthwise output, [24][24][144]; a group's largest late one, [3][3][720], fits as well. */
    FM_DEPTHWISE_FLOATS = 24 * 24 * 144,
    /* A slice of the expanded map: three rows of [48], all rows of [6][6], and of a group's [3][3]; no panel
     * is wider than 48 channels, and 24 make 13.5 KB, which leaves room in the nearest cache. */
    FM_RING_PIXELS = 3 * 48,
    FM_RING_FLOATS = FM_RING_PIXELS * 48,
    FM_IMAGE_ROW_FLOATS = FM_SIZE * 3
};

typedef struct fm_arena {
    float map[2][FM_MAP_FLOATS]; /* a block's input and output */
    float early[FM_GROUP * FM_EARLY_FLOATS];
    float depthwise[FM_DEPTHWISE_FLOATS];
    float ring[FM_RING_FLOATS];
    float image[3][FM_IMAGE_ROW_FLOATS]; /* rows scaled to [-1,1] */
} fm_arena;

void *fm_aligned_alloc(size_t bytes); /* FM_ALIGN-aligned or NULL */
void fm_aligned_free(void *block);

/* Take an idle arena of the model or make one (NULL: no memory); give it back. Safe from any thread. */
fm_arena *fm_arena_take(fm_model *model);
void fm_arena_give(fm_model *model, fm_arena *arena);
void fm_arena_free_all(fm_model *model);

#endif
