/* Indices of layers and endpoints, the same for every member of the family. Internal to csrc/. */
#ifndef FM_LAYERS_H
#define FM_LAYERS_H

#include "fastmnv2.h"

enum {
    FM_HEAD = 3 * FM_BLOCKS,
    FM_LOGITS = FM_HEAD + 1,
    FM_HEAD_ENDPOINT = 4 * FM_BLOCKS,
    FM_POOL_ENDPOINT = FM_HEAD_ENDPOINT + 1
};

static inline int fm_expand_layer(int block) { return 3 * block; }
static inline int fm_depthwise_layer(int block) { return 3 * block + 1; }
static inline int fm_project_layer(int block) { return 3 * block + 2; }

/* Endpoints of a block: expansion (or layer_1), depthwise, then the output under two names. */
static inline int fm_expand_endpoint(int block) { return 4 * block; }
static inline int fm_depthwise_endpoint(int block) { return 4 * block + 1; }
static inline int fm_output_endpoint(int block) { return 4 * block + 2; }

static inline int fm_projection_endpoint(int block) { return FM_ENDPOINTS + block; } /* after the named ones */

/* Pixels of a block's input and output maps, and of the last map, which the head reads. */
static inline int fm_in_pixels(const fm_block *block) { return block->height * block->width; }
static inline int fm_out_pixels(const fm_block *block) { return block->out_height * block->out_width; }
static inline int fm_last_pixels(const fm_network *network) { return fm_out_pixels(&network->blocks[FM_BLOCKS - 1]); }

static inline int fm_min(int a, int b) { return a < b ? a : b; }
static inline int fm_max(int a, int b) { return a > b ? a : b; }

#endif
