/* Fully connected layers of any width, for what users put behind the pooling. */
#include <stdlib.h>
#include <string.h>

#include "float32/pack.h"
#include "float32/tables.h"
#include "fpenv.h"
#include "net/arena.h"

enum {
    UNIT = 16,   /* columns are padded with zeros to a multiple: every table's vectors divide it */
    WIDEST = 64, /* no panel is wider */
    TILE = 8     /* rows that share a sweep over a panel */
};

struct fm_dense {
    const fm_kernels *kernels;
    float *packed;
    int inputs, outputs, padded, panels;
};

/* Kernel and bias with their columns padded, [1 + inputs][padded], the bias last. */
static float *padded_copy(const fm_dense *dense, const float *kernel, const float *bias) {
    const size_t row = (size_t)dense->padded, used = sizeof(float) * (size_t)dense->outputs;
    float *copy = calloc((size_t)(dense->inputs + 1) * row, sizeof *copy);
    if (!copy) return NULL;
    for (int i = 0; i < dense->inputs; i++) {
        memcpy(copy + (size_t)i * row, kernel + (size_t)i * (size_t)dense->outputs, used);
    }
    memcpy(copy + (size_t)dense->inputs * row, bias, used);
    return copy;
}

fm_status fm_dense_new(const fm_isa *isa, int inputs, int outputs, const float *kernel, const float *bias,
                       fm_dense **result) {
    fm_dense *dense = calloc(1, sizeof *dense);
    if (!dense) return FM_NO_MEMORY;
    dense->inputs = inputs;
    dense->outputs = outputs;
    dense->padded = (outputs + UNIT - 1) / UNIT * UNIT;
    dense->kernels = fm_float32_choose(isa, dense->padded);
    dense->panels = fm_panel_count(dense->padded, dense->kernels->lanes, dense->kernels->panel);

    const fm_layer layer = {.kind = FM_POINTWISE, .kernel = 1, .stride = 1, .in_size = 1, .out_size = 1,
                            .in_channels = inputs, .out_channels = dense->padded};
    float *copy = padded_copy(dense, kernel, bias);
    dense->packed = fm_aligned_alloc(sizeof(float) * fm_packed_floats(&layer));
    if (!copy || !dense->packed) {
        free(copy);
        fm_dense_free(dense);
        return FM_NO_MEMORY;
    }
    fm_pack(&layer, dense->kernels, copy, copy + (size_t)inputs * (size_t)dense->padded, dense->packed);
    free(copy);
    *result = dense;
    return FM_OK;
}

void fm_dense_free(fm_dense *dense) {
    if (!dense) return;
    fm_aligned_free(dense->packed);
    free(dense);
}

/* One panel's columns of up to TILE rows, by way of a tile, for the last panel is wider than what is wanted of it. */
static void panel_rows(const fm_dense *dense, int p, const float *x, int rows, float *y) {
    const int lanes = dense->kernels->lanes;
    const int start = fm_panel_start(dense->padded, lanes, dense->panels, p);
    const int width = fm_panel_start(dense->padded, lanes, dense->panels, p + 1) - start;
    const int wanted = start + width > dense->outputs ? dense->outputs - start : width;
    float tile[TILE * WIDEST];
    const float *panel = dense->packed + (size_t)start * (size_t)(dense->inputs + 1);
    const fm_pointwise_args args = {.a = x, .panel = panel, .c = tile, .rows = rows, .k = dense->inputs, .ldb = width,
                                    .ldc = width, .columns = width, .epilogue = FM_LINEAR, .ahead = panel};
    if (wanted <= 0) return;
    dense->kernels->pointwise(&args);
    for (int i = 0; i < rows; i++) {
        float *to = y + (size_t)i * (size_t)dense->outputs + start;
        memcpy(to, tile + (size_t)(i * width), sizeof(float) * (size_t)wanted);
    }
}

void fm_dense_run(const fm_dense *dense, const float *x, size_t n, float *y) {
    const fm_fpenv saved = fm_fpenv_enter();
    for (size_t i = 0; i < n; i += TILE) {
        const int rows = n - i < TILE ? (int)(n - i) : TILE;
        for (int p = 0; p < dense->panels; p++) {
            panel_rows(dense, p, x + i * (size_t)dense->inputs, rows, y + i * (size_t)dense->outputs);
        }
    }
    fm_fpenv_leave(saved);
}
