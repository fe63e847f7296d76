/* Fully connected layers of any width, for users' heads after the pooling. */
#include <stdlib.h>
#include <string.h>

#include "float32/pack.h"
#include "float32/tables.h"
#include "fpenv.h"
#include "net/arena.h"

enum {
    WIDEST = 64, /* max columns of a panel */
    TILE = 8     /* rows computed in one pass over a panel */
};

struct fm_dense {
    fm_float32_conv conv;
    float *packed;
    int inputs, outputs;
};

fm_status fm_dense_new(const fm_isa *isa, int inputs, int outputs, const float *kernel, const float *bias,
                       fm_dense **result) {
    const fm_layer layer = {
        .kind = FM_POINTWISE, .kernel = 1, .stride = 1, .in_channels = inputs, .out_channels = outputs};
    fm_dense *dense = calloc(1, sizeof *dense);
    if (!dense) return FM_NO_MEMORY;
    dense->inputs = inputs;
    dense->outputs = outputs;
    dense->packed = fm_aligned_alloc(sizeof(float) * fm_float32_packed_floats(&layer));
    if (!dense->packed) {
        free(dense);
        return FM_NO_MEMORY;
    }
    const fm_float32_kernels *kernels = fm_float32_choose(isa, fm_float32_padded_columns(&layer));
    dense->conv = fm_float32_pack(&layer, kernels, kernel, bias, dense->packed);
    *result = dense;
    return FM_OK;
}

void fm_dense_free(fm_dense *dense) {
    if (!dense) return;
    fm_aligned_free(dense->packed);
    free(dense);
}

/* Up to TILE rows of one panel's columns. Uses a buffer, because the last panel may be wider than the layer. */
static void panel_rows(const fm_dense *dense, int p, const float *x, int rows, float *y) {
    const fm_float32_conv *conv = &dense->conv;
    const fm_float32_panel panel = fm_float32_panel_at(conv, p);
    const int left = dense->outputs - panel.start, wanted = left < panel.width ? left : panel.width;
    float tile[TILE * WIDEST];
    const fm_float32_pointwise_args args = {.a = x,
                                            .panel = fm_float32_panel_weights(conv, panel),
                                            .c = tile,
                                            .rows = rows,
                                            .k = conv->depth,
                                            .ldb = panel.width,
                                            .ldc = panel.width,
                                            .columns = panel.width,
                                            .epilogue = FM_LINEAR,
                                            .ahead = conv->packed};
    if (wanted <= 0) return;
    conv->kernels->pointwise(&args);
    for (int i = 0; i < rows; i++) {
        float *to = y + (size_t)i * (size_t)dense->outputs + panel.start;
        memcpy(to, tile + (size_t)(i * panel.width), sizeof(float) * (size_t)wanted);
    }
}

void fm_dense_run(const fm_dense *dense, const float *x, size_t n, float *y) {
    const fm_fpenv saved = fm_fpenv_enter();
    for (size_t i = 0; i < n; i += TILE) {
        const int rows = n - i < TILE ? (int)(n - i) : TILE;
        for (int p = 0; p < dense->conv.panels; p++) {
            panel_rows(dense, p, x + i * (size_t)dense->inputs, rows, y + i * (size_t)dense->outputs);
        }
    }
    fm_fpenv_leave(saved);
}
