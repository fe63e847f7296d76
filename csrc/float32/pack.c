#include "float32/pack.h"

#include <string.h>

/* Columns are padded with zeros to whole vectors of every table. Only the logits need padding. */
enum { COLUMN_UNIT = 16, CHANNEL_UNIT = 8 };

int fm_float32_padded_columns(const fm_layer *layer) {
    const int columns = layer->out_channels;
    return columns % CHANNEL_UNIT ? (columns + COLUMN_UNIT - 1) / COLUMN_UNIT * COLUMN_UNIT : columns;
}

static int depth(const fm_layer *layer) {
    const int taps = layer->kernel * layer->kernel;
    return layer->kind == FM_DEPTHWISE ? taps : taps * layer->in_channels;
}

size_t fm_float32_packed_floats(const fm_layer *layer) {
    return (size_t)fm_float32_padded_columns(layer) * (size_t)(depth(layer) + 1);
}

fm_float32_conv fm_float32_pack(const fm_layer *layer, const fm_float32_kernels *kernels, const float *kernel,
                                const float *bias, float *packed) {
    /* In every layout, columns are cut into panels, and a panel is a bias row followed by one row for each step of the
     * multiply-add chain. Only the widths of the panels differ. */
    fm_float32_conv conv = {
        .kernels = kernels, .packed = packed, .depth = depth(layer), .columns = fm_float32_padded_columns(layer)};
    conv.panels = 1;
    if (layer->kind == FM_DEPTHWISE) conv.panels = fm_vectors(conv.columns, kernels->lanes);
    if (layer->kind == FM_POINTWISE) conv.panels = fm_float32_panel_count(conv.columns, kernels->lanes, kernels->panel);
    /* Row by row, so that the kernel is read once from start to end. */
    const int columns = layer->out_channels;
    for (int i = -1; i < conv.depth; i++) {
        const float *row = i < 0 ? bias : kernel + (size_t)i * (size_t)columns;
        for (int p = 0; p < conv.panels; p++) {
            const fm_float32_panel panel = fm_float32_panel_at(&conv, p);
            const int real = fm_max(0, fm_min(columns - panel.start, panel.width));
            float *to = packed + (size_t)panel.start * ((size_t)conv.depth + 1) + (size_t)((i + 1) * panel.width);
            memcpy(to, row + panel.start, sizeof(float) * (size_t)real);
            memset(to + real, 0, sizeof(float) * (size_t)(panel.width - real));
        }
    }
    return conv;
}
