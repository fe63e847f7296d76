/* An 8-bit model ready to run, and its working memory. Internal to csrc/int8. */
#ifndef FM_INT8_NETWORK_H
#define FM_INT8_NETWORK_H

#include <stdatomic.h>

#include "int8/pack.h"
#include "net/network.h"

enum {
    FM_INT8_TURN = 2,      /* output rows that go through a block of large maps together */
    FM_INT8_RING = 4,      /* expanded rows kept for them: what two output rows read */
    FM_INT8_WHOLE_MAP = 12 /* maps up to this size go through a block at once */
};

/* What a block's walk is made of, decided once for each block. */
typedef struct fm_int8_plan {
    int ring_rows, turn; /* expanded rows kept, output rows at a time */
    int by_channels;     /* threads share out channels of the expanded map; else rows of the output */
} fm_int8_plan;

/* Sizes of the working memory, in bytes. */
typedef struct fm_int8_sizes {
    size_t image_row, image, map, ring, border, depthwise;
} fm_int8_sizes;

/* Working memory of one worker. The team shares its first one's image, maps and, where channels are shared out, the
 * depthwise output. */
typedef struct fm_int8_arena {
    uint8_t *image;     /* [97][image_row]: pixels, padded by a row below and a column to the right */
    uint8_t *map[2];    /* a block's input and output */
    uint8_t *ring;      /* rows of the expanded map, padded by a pixel left and right */
    uint8_t *border;    /* the row above and below the map */
    uint8_t *depthwise; /* depthwise output */
    atomic_int nan[2];  /* whether an image of even, of odd index has a NaN in it */
} fm_int8_arena;

struct fm_int8_model {
    fm_int8_conv conv[FM_LAYERS]; /* depthwise layers' are empty */
    fm_int8_depthwise depthwise[FM_BLOCKS];
    int depthwise_zero[FM_BLOCKS], image_zero;
    fm_int8_add add[FM_BLOCKS];
    fm_int8_plan plan[FM_BLOCKS];
    fm_int8_sizes sizes;
    uint8_t *pool; /* see fm_int8_weights */
    float *value;
    char *block; /* everything packed */
    size_t bytes;
    int has_logits;
    _Atomic(fm_int8_arena *) idle[16];
};

fm_int8_arena *fm_int8_arena_take(fm_int8_model *model);
void fm_int8_arena_give(fm_int8_model *model, fm_int8_arena *arena);

#endif
