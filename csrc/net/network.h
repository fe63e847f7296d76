/* The block table, and the packed model that forward() runs. Internal to csrc/. */
#ifndef FM_NETWORK_H
#define FM_NETWORK_H

#include <stdatomic.h>

#include "fastmnv2.h"
#include "float32/kernels.h"

/* One inverted residual block: 1x1 expand -> 3x3 depthwise -> 1x1 project. */
typedef struct fm_block {
    int size, in, expand, out, stride; /* input height and width; channels */
} fm_block;

extern const fm_block fm_blocks[FM_BLOCKS];

/* Layer indices of a block. Block 0 has no expansion: the first convolution (layer 0) stands there. */
static inline int fm_expand_layer(int block) { return 3 * block; }
static inline int fm_depthwise_layer(int block) { return 3 * block + 1; }
static inline int fm_project_layer(int block) { return 3 * block + 2; }

/* Endpoint indices likewise: expansion (or layer_1), depthwise, then the output under two names. */
static inline int fm_expand_endpoint(int block) { return 4 * block; }
static inline int fm_depthwise_endpoint(int block) { return 4 * block + 1; }
static inline int fm_output_endpoint(int block) { return 4 * block + 2; }
enum { FM_HEAD_ENDPOINT = 68, FM_POOL_ENDPOINT = 69 };

static inline int fm_has_residual(const fm_block *block) {
    return block->stride == 1 && block->in == block->out;
}

/* The logits' 1001 columns are packed with zeros up to a multiple of every vector length. */
enum { FM_PADDED_CLASSES = 1008 };

/* A layer ready to run: the kernels chosen for it and its weights in their layout. */
typedef struct fm_conv {
    const fm_kernels *kernels;
    const float *packed;
    int panels; /* pointwise only */
} fm_conv;

struct fm_arena;

struct fm_model {
    fm_conv conv[FM_LAYERS];
    float *block; /* all packed weights, in the order they are used */
    size_t bytes;
    int has_logits;
    fm_scale_args scale; /* from pixels in [0,1] to what the first convolution takes; without rows yet */
    _Atomic(struct fm_arena *) idle[16]; /* arenas kept between calls; see arena.c */
};

#endif
