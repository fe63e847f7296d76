/* The packed layouts of weights. Only this code and the kernels depend on them. */
#ifndef FM_FLOAT32_PACK_H
#define FM_FLOAT32_PACK_H

#include "float32/kernels.h"
#include "net/layers.h"

/* A layer ready to run: the kernels chosen for it and its weights in their layout. */
typedef struct fm_float32_conv {
    const fm_float32_kernels *kernels;
    const float *packed;
    int depth;   /* multiply-adds per output */
    int columns; /* outputs, padded to whole vectors */
    int panels;
} fm_float32_conv;

/* A panel of a pointwise layer: its first column and its number of columns. */
typedef struct fm_float32_panel {
    int start, width;
} fm_float32_panel;

/* The number of a layer's outputs, rounded up to whole vectors. */
int fm_float32_padded_columns(const fm_layer *layer);

/* Floats of a packed layer: kernel and bias, with padded columns. */
size_t fm_float32_packed_floats(const fm_layer *layer);

/* TF-Slim layouts in, packed layout out:
 *   convolution  bias [out], then [27][out]
 *   depthwise    per vector of channels: bias, then the nine taps
 *   pointwise    per panel: bias, then one row of the panel for each k */
fm_float32_conv fm_float32_pack(const fm_layer *layer, const fm_float32_kernels *kernels, const float *kernel,
                                const float *bias, float *packed);

static inline fm_float32_panel fm_float32_panel_at(const fm_float32_conv *conv, int p) {
    const int lanes = conv->kernels->lanes, start = fm_float32_panel_start(conv->columns, lanes, conv->panels, p);
    return (fm_float32_panel){start, fm_float32_panel_start(conv->columns, lanes, conv->panels, p + 1) - start};
}

/* A panel's bias row, which is followed by its rows of weights, and the panel's size. */
static inline const float *fm_float32_panel_weights(const fm_float32_conv *conv, fm_float32_panel panel) {
    return conv->packed + (size_t)panel.start * ((size_t)conv->depth + 1);
}
static inline size_t fm_float32_panel_floats(const fm_float32_conv *conv, fm_float32_panel panel) {
    return (size_t)panel.width * ((size_t)conv->depth + 1);
}

/* The weights of a depthwise layer from `channel` on, a multiple of the vector's lanes. */
static inline const float *fm_float32_depthwise_weights(const fm_float32_conv *conv, int channel) {
    return conv->packed + (size_t)channel * ((size_t)conv->depth + 1);
}

#endif
