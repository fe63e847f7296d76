#include "net/plan.h"

enum {
    /* Images in a group. Two or eight gain nothing over four, one at a time costs 5 % at n = 8 (Zen 5). */
    GROUP = 4,
    /* A group goes through a block together where its expanded maps take no more than this: 3x3 maps do, four of
     * 6x6 would push each other out of the cache that is nearest but one. */
    GROUPED_BYTES = 128 << 10,
    /* Pixels of a slice in the ring: a multiple of the tiles' heights, and at 24 to 48 channels 13 to 27 KB, which
     * leaves room in the nearest cache. Half as many again, or twice, gains nothing (Zen 5). */
    RING_PIXELS = 144,
    KERNEL_ROWS = 3,
    SPARE_COLUMNS = 64 /* more than any tier pads a layer's columns with */
};

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static fm_block_plan plan_block(const fm_block *block, const fm_tier_needs *needs) {
    const size_t expanded = (size_t)fm_in_pixels(block) * (size_t)block->expand;
    const size_t weights = (size_t)block->expand * (size_t)(block->in + block->out);
    /* Where the expanded map is the larger part, threads that share its rows have less to hand to each other. */
    const int many_weights = weights > expanded;
    const int grouped = many_weights && GROUP * expanded * needs->element <= GROUPED_BYTES;
    fm_block_plan plan = {.way = many_weights ? FM_BY_CHANNELS : FM_BY_ROWS, .streamed = many_weights, .images = 1};
    if (grouped) {
        plan.way = FM_GROUPED;
        plan.images = GROUP;
    }
    plan.ring_rows = fm_most(needs->ring_rows ? needs->ring_rows : KERNEL_ROWS, RING_PIXELS / block->width);
    plan.chunk_rows = needs->chunk_rows ? needs->chunk_rows : block->out_height;
    plan.out_rows = block->out_height;
    return plan;
}

fm_plan fm_plan_for(const fm_network *network, const fm_tier_needs *needs) {
    fm_plan plan = {.needs = *needs, .group = GROUP, .first_grouped = FM_BLOCKS};
    plan.image_row = (size_t)(network->width + 2 * needs->padding) * (size_t)network->colours;
    plan.map = (size_t)network->classes + SPARE_COLUMNS; /* the logits are computed in one */

    for (int b = FM_BLOCKS - 1; b >= 0; b--) {
        const fm_block *block = &network->blocks[b];
        fm_block_plan *own = &plan.blocks[b];
        *own = plan_block(block, needs);
        /* Grouped blocks come last, one after the other. */
        if (own->way == FM_GROUPED && plan.first_grouped == b + 1) {
            plan.first_grouped = b;
        } else if (own->way == FM_GROUPED) {
            own->way = FM_BY_CHANNELS;
            own->images = 1;
        }

        const size_t images = (size_t)own->images, outputs = images * (size_t)fm_out_pixels(block);
        /* The first convolution is never sliced: it reads the image once. */
        const int width = needs->slice && b > 0 ? fm_least(needs->slice, block->expand) : block->expand;
        const size_t row = (size_t)(block->width + 2 * needs->padding) * (size_t)width;
        plan.map = larger(plan.map, outputs * (size_t)block->out);
        plan.depthwise = larger(plan.depthwise, outputs * (size_t)block->expand);
        plan.ring = larger(plan.ring, (size_t)(own->ring_rows + (needs->padding > 0)) * row);
        plan.tallest_ring = fm_most(plan.tallest_ring, own->ring_rows);
    }
    /* Block 0 is never grouped: its maps are the largest. */
    const fm_block *last_early = &network->blocks[plan.first_grouped - 1];
    plan.early = (size_t)fm_out_pixels(last_early) * (size_t)last_early->out;
    const int head_slice = needs->slice ? needs->slice : network->features;
    plan.ring = larger(plan.ring, (size_t)(GROUP * fm_last_pixels(network)) * (size_t)head_slice);
    return plan;
}
