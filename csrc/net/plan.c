#include "net/plan.h"

/* The rule: data that a step reads again soon fits in a cache, with room for the data that streams through. The rows of
 * a slice fit in L1 (32 KB). The depthwise outputs of a chunk, and the maps of a group and their weights, fit in L2 (at
 * least 512 KB). The numbers depend only on a block's shape, so they hold for every member.
 *
 * Measured on Zen 3 (32 KB, 512 KB) with one thread, float32. Chunks of 64 KB instead of whole maps, and rings of
 * 288 pixels of 24 channels instead of 144, take 4 to 5 % off 1.0/160 and 1.0/224, 3 % off 0.35/224, and 0 to 2 % off
 * 0.75/96. In 1.0/224, the first depthwise layer takes half its time. Chunks of 32 KB are slower; 128 and 256 KB, and
 * chunks of blocks with more weights, are 0 to 2 % slower. Groups of 1 and 2 gain at most 3 %, which is also
 * the difference between two identical models. */
enum {
    /* Images in a group. Two or eight are no faster; one at a time is 5 % slower at n = 8 (0.75/96, Zen 5). */
    GROUP = 4,
    /* A group runs through a block together only if its expanded maps take at most this much, a quarter of L2. At
     * 0.75/96, four maps of 3x3 fit; four of 6x6 would evict each other. Members with larger maps have no such block in
     * float32, and don't need one: 16 or more pixels of a single image already share each weight. */
    GROUPED_BYTES = 128 << 10,
    /* The ring's size, most of L1. For maps that are too wide, it has only the kernel's three rows. */
    RING_BYTES = 27 << 10,
    KERNEL_ROWS = 3,
    /* In a tier without fixed chunk_rows, a chunk has as many rows as have depthwise outputs of this size, so that they
     * are still in L2 when they are projected. Each chunk reads all weights of the block, so they must be few. */
    CHUNK_BYTES = 64 << 10,
    CHUNK_WEIGHT_BYTES = 64 << 10,
    SPARE_COLUMNS = 64 /* more than any tier adds to pad a layer's columns */
};

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* The plan of a block whose expanded map is computed `slice` channels at a time. */
static fm_block_plan plan_block(const fm_block *block, int slice, const fm_tier_needs *needs) {
    const size_t expanded = (size_t)fm_in_pixels(block) * (size_t)block->expand;
    const size_t weights = (size_t)block->expand * (size_t)(block->in + block->out);
    /* If the expanded map is larger than the weights, splitting by rows moves less data between cores. */
    const int many_weights = weights > expanded;
    const int grouped = many_weights && GROUP * expanded * needs->element <= GROUPED_BYTES;
    fm_block_plan plan = {.way = many_weights ? FM_BY_CHANNELS : FM_BY_ROWS, .images = 1};
    if (grouped) {
        plan.way = FM_GROUPED;
        plan.images = GROUP;
    }
    const size_t ring_row = (size_t)block->width * (size_t)slice * needs->element;
    plan.ring_rows = fm_max(needs->ring_rows ? needs->ring_rows : KERNEL_ROWS, (int)(RING_BYTES / ring_row));
    plan.chunk_rows = needs->chunk_rows ? needs->chunk_rows : block->out_height;
    if (!needs->chunk_rows && plan.way == FM_BY_ROWS && weights * needs->element <= CHUNK_WEIGHT_BYTES) {
        const size_t row = (size_t)block->out_width * (size_t)block->expand * needs->element;
        const int pairs = fm_max(1, (int)(CHUNK_BYTES / (2 * row))); /* kernels compute two rows at a time */
        plan.chunk_rows = fm_min(2 * pairs, block->out_height);
    }
    plan.out_rows = block->out_height;
    return plan;
}

fm_plan fm_plan_for(const fm_network *network, const fm_tier_needs *needs) {
    fm_plan plan = {.needs = *needs, .group = GROUP, .first_grouped = FM_BLOCKS};
    plan.image_row = (size_t)(network->width + 2 * needs->padding) * (size_t)network->colours;
    plan.map = (size_t)network->classes + SPARE_COLUMNS; /* the logits are computed in a map buffer */

    for (int b = FM_BLOCKS - 1; b >= 0; b--) {
        const fm_block *block = &network->blocks[b];
        fm_block_plan *own = &plan.blocks[b];
        /* The first convolution is never sliced: it reads the image once. */
        const int slice = needs->slice && b > 0 ? fm_min(needs->slice, block->expand) : block->expand;
        *own = plan_block(block, slice, needs);
        /* Grouped blocks must be the last ones, without a gap. */
        if (own->way == FM_GROUPED && plan.first_grouped == b + 1) {
            plan.first_grouped = b;
        } else if (own->way == FM_GROUPED) {
            own->way = FM_BY_CHANNELS;
            own->images = 1;
        }

        const size_t images = (size_t)own->images, outputs = images * (size_t)fm_out_pixels(block);
        const int channels = fm_in_chunks(own) ? block->expand : slice; /* in chunks, each slice has its own rows */
        const size_t row = (size_t)(block->width + 2 * needs->padding) * (size_t)channels;
        plan.map = larger(plan.map, outputs * (size_t)block->out);
        const int by_rows = own->way == FM_BY_ROWS; /* one chunk of an image at a time */
        const size_t depthwise =
            by_rows ? (size_t)(fm_min(own->chunk_rows, block->out_height) * block->out_width) : outputs;
        plan.depthwise = larger(plan.depthwise, depthwise * (size_t)block->expand);
        plan.ring = larger(plan.ring, (size_t)(own->ring_rows + (needs->padding > 0)) * row);
        plan.tallest_ring = fm_max(plan.tallest_ring, own->ring_rows);
    }
    /* Block 0 is never grouped: its maps are the largest. */
    const fm_block *last_early = &network->blocks[plan.first_grouped - 1];
    plan.early = (size_t)fm_out_pixels(last_early) * (size_t)last_early->out;
    const int head_slice = needs->slice ? needs->slice : network->features;
    plan.ring = larger(plan.ring, (size_t)(GROUP * fm_last_pixels(network)) * (size_t)head_slice);
    return plan;
}
