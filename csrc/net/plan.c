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
static size_t area(int size) { return (size_t)size * (size_t)size; }

static fm_block_plan plan_block(const fm_block *block, const fm_tier_needs *needs) {
    const size_t expanded = area(block->size) * (size_t)block->expand;
    const size_t weights = (size_t)block->expand * (size_t)(block->in + block->out);
    /* Where the expanded map is the larger part, threads that share its rows have less to hand to each other. */
    const int many_weights = weights > expanded;
    const int grouped = many_weights && GROUP * expanded * needs->element <= GROUPED_BYTES;
    fm_block_plan plan = {.way = many_weights ? FM_BY_CHANNELS : FM_BY_ROWS, .streamed = many_weights, .images = 1};
    if (grouped) {
        plan.way = FM_GROUPED;
        plan.images = GROUP;
    }
    plan.ring_rows = fm_most(needs->ring_rows ? needs->ring_rows : KERNEL_ROWS, RING_PIXELS / block->size);
    plan.chunk_rows = needs->chunk_rows ? needs->chunk_rows : fm_out_size(block);
    return plan;
}

fm_plan fm_plan_for(const fm_tier_needs *needs) {
    const fm_network *network = fm_network_info();
    fm_plan plan = {.needs = *needs, .group = GROUP, .first_grouped = FM_BLOCKS};
    plan.image_row = (size_t)(network->size + needs->padding) * (size_t)network->colours;
    plan.map = (size_t)network->classes + SPARE_COLUMNS; /* the logits are computed in one */

    for (int b = FM_BLOCKS - 1; b >= 0; b--) {
        const fm_block *block = &fm_blocks[b];
        fm_block_plan *own = &plan.blocks[b];
        *own = plan_block(block, needs);
        /* Grouped blocks come last, one after the other. */
        if (own->way == FM_GROUPED && plan.first_grouped == b + 1) plan.first_grouped = b;
        else if (own->way == FM_GROUPED) *own = (fm_block_plan){FM_BY_CHANNELS, 1, 1, own->ring_rows, own->chunk_rows};

        const size_t images = (size_t)own->images, outputs = images * area(fm_out_size(block));
        /* The first convolution is never sliced: it reads the image once. */
        const int width = needs->slice && b > 0 ? fm_least(needs->slice, block->expand) : block->expand;
        const size_t row = (size_t)(block->size + 2 * needs->padding) * (size_t)width;
        plan.map = larger(plan.map, outputs * (size_t)block->out);
        plan.depthwise = larger(plan.depthwise, outputs * (size_t)block->expand);
        plan.ring = larger(plan.ring, (size_t)(own->ring_rows + (needs->padding > 0)) * row);
        plan.tallest_ring = fm_most(plan.tallest_ring, own->ring_rows);
    }
    if (plan.first_grouped < FM_BLOCKS) {
        const fm_block *first = &fm_blocks[plan.first_grouped];
        plan.early = area(first->size) * (size_t)first->in;
    }
    const fm_layer head = fm_layer_info(FM_HEAD);
    const int head_slice = needs->slice ? needs->slice : head.out_channels;
    plan.ring = larger(plan.ring, (size_t)GROUP * area(head.out_size) * (size_t)head_slice);
    return plan;
}
