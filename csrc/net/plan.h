/* How the network is walked, decided once for each model from its network and from what the tier's kernels like:
 * which way each block goes, how many rows are kept at a time, how large the buffers are. Internal to csrc/. */
#ifndef FM_PLAN_H
#define FM_PLAN_H

#include "net/layers.h"

typedef enum fm_way {
    FM_BY_ROWS,     /* image by image; threads share out rows: large maps, few weights */
    FM_BY_CHANNELS, /* image by image; threads share out channels: small maps, many weights */
    FM_GROUPED      /* by channels, and several images go through each weight: the smallest maps */
} fm_way;

/* What a tier wants of a plan. */
typedef struct fm_tier_needs {
    size_t element; /* bytes of a number in a map */
    int slice;      /* most channels of a slice of the expanded map; 0: all of them are one slice */
    int chunk_rows; /* output rows that go from expansion to projection together; 0: all of them */
    int padding;    /* pixels of padding left and right of each row of an image or of an expanded map */
    int tile_rows;  /* pixels that the tallest pointwise tile takes at once */
    int ring_rows;  /* expanded rows that are kept at least; 0: as many as the kernel has */
    size_t slack;   /* numbers behind each buffer that kernels may read */
} fm_tier_needs;

typedef struct fm_block_plan {
    fm_way way;
    int streamed;  /* its weights come from the outer caches: they are fetched ahead */
    int images;    /* that go through the block together */
    int ring_rows; /* rows of the expanded map that are kept at a time */
    int chunk_rows;
    int out_rows; /* of each image, for threads to share out */
} fm_block_plan;

typedef struct fm_plan {
    fm_tier_needs needs;
    fm_block_plan blocks[FM_BLOCKS];
    int group;         /* images that share a sweep over the weights of the grouped blocks */
    int first_grouped; /* index of the first of these blocks; FM_BLOCKS if there are none */
    int tallest_ring;  /* rows */

    /* Numbers in each buffer of an arena. */
    size_t map;       /* a block's input or output */
    size_t early;     /* what one image's early blocks hand to the grouped ones */
    size_t depthwise; /* depthwise outputs */
    size_t ring;      /* rows of a slice of the expanded map, and one of padding if there is any; also the head's map */
    size_t image_row; /* one row of the image */
} fm_plan;

fm_plan fm_plan_for(const fm_network *network, const fm_tier_needs *needs);

/* Whether threads share out a block's rows. A team does so with small maps, too, if there are some rows for each: less
 * goes from core to core than with channels, though neighbours both expand the rows between them. Six rows on two
 * threads: 68 % of twice the speed of one, where channels gave 62 % (a cache line's way 140 ns). */
static inline int fm_goes_by_rows(const fm_plan *plan, int block, int team_size) {
    enum { ROWS_EACH = 3 };
    const fm_block_plan *own = &plan->blocks[block];
    return own->way == FM_BY_ROWS || (team_size > 1 && own->out_rows >= ROWS_EACH * team_size);
}

/* Image rows kept at a time: as many as the first convolution's kernel has. */
enum { FM_IMAGE_ROWS = 3 };

#endif
