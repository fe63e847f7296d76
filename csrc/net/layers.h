/* The network as data: the only place that knows its sizes. Internal to csrc/. */
#ifndef FM_LAYERS_H
#define FM_LAYERS_H

#include "fastmnv2.h"

/* One inverted residual block: 1x1 expand -> 3x3 depthwise -> 1x1 project. */
typedef struct fm_block {
    int size, in, expand, out, stride; /* input height and width; channels */
} fm_block;

enum {
    FM_BLOCKS = 17,
    FM_LAYERS = 3 * FM_BLOCKS + 2, /* the head and the logits layer come last */
    FM_HEAD = 3 * FM_BLOCKS,
    FM_LOGITS = FM_HEAD + 1,
    FM_ENDPOINTS = 4 * FM_BLOCKS + 2,
    FM_HEAD_ENDPOINT = 4 * FM_BLOCKS,
    FM_POOL_ENDPOINT = FM_HEAD_ENDPOINT + 1
};

/* Block 0 has no expansion: where the others expand, it has the first convolution, which reads the image. */
extern const fm_block *const fm_blocks; /* [FM_BLOCKS] */

static inline int fm_expand_layer(int block) { return 3 * block; }
static inline int fm_depthwise_layer(int block) { return 3 * block + 1; }
static inline int fm_project_layer(int block) { return 3 * block + 2; }

/* Endpoint indices likewise: expansion (or layer_1), depthwise, then the output under two names. */
static inline int fm_expand_endpoint(int block) { return 4 * block; }
static inline int fm_depthwise_endpoint(int block) { return 4 * block + 1; }
static inline int fm_output_endpoint(int block) { return 4 * block + 2; }

static inline int fm_projection_endpoint(int block) { return FM_ENDPOINTS + block; } /* behind the named ones */

static inline int fm_out_size(const fm_block *block) { return block->size / block->stride; }
static inline int fm_has_residual(const fm_block *block) { return block->stride == 1 && block->in == block->out; }

/* SAME padding: stride 1 pads one row above, stride 2 none; below, both pad as far as they must. */
static inline int fm_pad_top(const fm_block *block) { return block->stride == 1; }

static inline int fm_least(int a, int b) { return a < b ? a : b; }
static inline int fm_most(int a, int b) { return a > b ? a : b; }

#endif
