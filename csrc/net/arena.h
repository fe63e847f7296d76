/* The working memory of one worker: one aligned block that the model keeps between calls. */
#ifndef FM_ARENA_H
#define FM_ARENA_H

#include "net/plan.h"

enum { FM_ALIGN = 64 };

/* Buffers of the tier's numbers. The plan has their sizes. */
typedef struct fm_arena {
    void *map[2];               /* a block's input and output */
    void *early;                /* output of the early blocks for each image of a group */
    void *depthwise;            /* outputs of a block's depthwise convolution, all channels */
    void *ring;                 /* rows of a slice of the expanded map */
    void *image[FM_IMAGE_ROWS]; /* image rows, converted for the first convolution */
    const void **rows;          /* pointers to the input rows of a depthwise kernel */
} fm_arena;

size_t fm_image_row_bytes(const fm_plan *plan); /* distance between an arena's image rows */

void *fm_aligned_alloc(size_t bytes); /* FM_ALIGN-aligned or NULL */
void fm_aligned_free(void *memory);

struct fm_model;

/* Take an idle arena of the model, or make one (NULL if there is no memory); give it back afterwards. Thread-safe. */
fm_arena *fm_arena_take(struct fm_model *model);
void fm_arena_give(struct fm_model *model, fm_arena *arena);
void fm_arena_free_all(struct fm_model *model);

#endif
