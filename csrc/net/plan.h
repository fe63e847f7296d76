/* The plan of the walk, made once for each model from its network and its tier's needs: how each block is split among
 * threads, how many rows are kept at a time, and how large the buffers are. Internal to csrc/. */
#ifndef FM_PLAN_H
#define FM_PLAN_H

#include "net/layers.h"

typedef enum fm_way {
    FM_BY_ROWS,     /* large maps, few weights: image by image, rows split among threads */
    FM_BY_CHANNELS, /* small maps, many weights: image by image, channels split among threads */
    FM_GROUPED      /* the smallest maps: channels split among threads, several images use each weight */
} fm_way;

/* A tier's requirements for the plan. */
typedef struct fm_tier_needs {
    size_t element; /* bytes of a number in a map */
    int slice;      /* max channels in a slice of the expanded map; 0: one slice has them all */
    int chunk_rows; /* output rows that are expanded, convolved and projected together; 0: as many as L2 holds */
    int padding;    /* pixels of padding left and right of each row of an image or of an expanded map */
    int tile_rows;  /* pixels in the tallest pointwise tile */
    int ring_rows;  /* min expanded rows to keep; 0: as many as the kernel has */
    size_t slack;   /* numbers past the end of each buffer that kernels may read */
} fm_tier_needs;

typedef struct fm_block_plan {
    fm_way way;
    int images;     /* images that run through the block together */
    int ring_rows;  /* rows of the expanded map kept at a time */
    int chunk_rows; /* output rows that are expanded, convolved and projected together */
    int out_rows;   /* output rows of each image, which may be split among threads */
} fm_block_plan;

typedef struct fm_plan {
    fm_tier_needs needs;
    fm_block_plan blocks[FM_BLOCKS];
    int group;         /* images that use each weight of the grouped blocks together */
    int first_grouped; /* index of the first grouped block; FM_BLOCKS if there is none */
    int tallest_ring;  /* rows of the tallest ring */

    /* Numbers in each buffer of an arena. */
    size_t map;       /* a block's input or output */
    size_t early;     /* one image's output of the last block before the grouped ones */
    size_t depthwise; /* depthwise outputs */
    size_t ring;      /* rows of a slice of the expanded map, plus a row of padding if needed; also the head's map */
    size_t image_row; /* one row of the image */
} fm_plan;

fm_plan fm_plan_for(const fm_network *network, const fm_tier_needs *needs);

/* Whether a block is split among threads by rows. Teams also split small maps by rows, if each thread gets several.
 * This moves less data between cores than splitting by channels, but neighbouring threads both expand the rows at their
 * border, and few rows can't be split exactly. One image on two threads (0.75/96 in float32, Zen 3), with maps of six
 * rows split by channels instead of rows: a call takes 4 to 5 % less time where a cache line takes 35 to 60 ns from
 * core to core. At 250 ns its median is the same, and the fastest calls take 2 to 5 % longer. Tried without gain: only
 * the step from 12 to 6 rows by channels; in int8, six rows by rows (1.5 % longer). */
static inline int fm_goes_by_rows(const fm_plan *plan, int block, int team_size) {
    enum { ROWS_EACH = 4 };
    const fm_block_plan *own = &plan->blocks[block];
    return own->way == FM_BY_ROWS || (team_size > 1 && own->out_rows >= ROWS_EACH * team_size);
}

/* Whether a block runs in several chunks. Then each slice has a ring of its own, so that no row is expanded twice. */
static inline int fm_in_chunks(const fm_block_plan *plan) { return plan->chunk_rows < plan->out_rows; }

/* Image rows kept at a time: the height of the first convolution's kernel. */
enum { FM_IMAGE_ROWS = 3 };

#endif
