#include "float32/pack.h"

#include <string.h>

static int padded_columns(const fm_layer *layer) {
    return layer->out_channels == FM_CLASSES ? FM_PADDED_CLASSES : layer->out_channels;
}

static int depth(const fm_layer *layer) {
    const int taps = layer->kernel * layer->kernel;
    return layer->kind == FM_DEPTHWISE ? taps : taps * layer->in_channels;
}

size_t fm_packed_floats(const fm_layer *layer) {
    return (size_t)padded_columns(layer) * (size_t)(depth(layer) + 1);
}

void fm_pack(const fm_layer *layer, const fm_kernels *kernels, const float *kernel, const float *bias,
             float *packed) {
    /* Every layout is the same thing: columns cut into panels, each panel a bias row and then one row
     * for each step of the multiply-add chain. Only the cut differs. */
    const int columns = layer->out_channels, padded = padded_columns(layer), k = depth(layer);
    int panels = 1;
    if (layer->kind == FM_DEPTHWISE) panels = fm_vectors(padded, kernels->lanes);
    if (layer->kind == FM_POINTWISE) panels = fm_panel_count(padded, kernels->lanes, kernels->panel);
    for (int p = 0; p < panels; p++) {
        const int start = fm_panel_start(padded, kernels->lanes, panels, p);
        const int end = fm_panel_start(padded, kernels->lanes, panels, p + 1);
        const int real = columns <= start ? start : columns < end ? columns : end;
        for (int i = -1; i < k; i++) {
            const float *row = i < 0 ? bias : kernel + (size_t)i * (size_t)columns;
            memcpy(packed, row + start, sizeof(float) * (size_t)(real - start));
            memset(packed + (real - start), 0, sizeof(float) * (size_t)(end - real));
            packed += end - start;
        }
    }
}
