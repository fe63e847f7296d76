/* Making and freeing a model. */
#include <math.h>
#include <stdlib.h>

#include "float32/pack.h"
#include "float32/tables.h"
#include "net/arena.h"

static size_t round_up(size_t floats) {
    const size_t unit = FM_ALIGN / sizeof(float);
    return (floats + unit - 1) / unit * unit;
}

/* The scaling of image rows. Pixels a quarter outside of [0,1] are worth a warning. */
static fm_scale_args scale_of(float black, float white) {
    const float span = white - black, low = fabsf(black - span / 4.0f), high = fabsf(white + span / 4.0f);
    return (fm_scale_args){.count = FM_IMAGE_ROW_FLOATS, .multiplier = span, .addend = black,
                           .limit = low > high ? low : high};
}

fm_status fm_model_new(const fm_isa *isa, const fm_weights *weights, fm_model **result) {
    fm_model *model = calloc(1, sizeof *model);
    if (!model) return FM_NO_MEMORY;
    model->scale = scale_of(weights->black, weights->white);
    model->has_logits = weights->kernel[FM_LOGITS] && weights->bias[FM_LOGITS];
    const int layers = model->has_logits ? FM_LAYERS : FM_LOGITS;

    size_t floats = 0;
    for (int i = 0; i < layers; i++) {
        const fm_layer layer = fm_layer_info(i);
        floats += round_up(fm_packed_floats(&layer));
    }
    model->bytes = floats * sizeof(float);
    model->block = fm_aligned_alloc(model->bytes);
    if (!model->block) {
        free(model);
        return FM_NO_MEMORY;
    }

    float *packed = model->block;
    for (int i = 0; i < layers; i++) {
        const fm_layer layer = fm_layer_info(i);
        const int columns = i == FM_LOGITS ? FM_PADDED_CLASSES : layer.out_channels;
        const fm_kernels *kernels = fm_float32_choose(isa, columns);
        model->conv[i] = (fm_conv){kernels, packed, fm_panel_count(columns, kernels->lanes, kernels->panel)};
        fm_pack(&layer, kernels, weights->kernel[i], weights->bias[i], packed);
        packed += round_up(fm_packed_floats(&layer));
    }
    *result = model;
    return FM_OK;
}

void fm_model_free(fm_model *model) {
    if (!model) return;
    fm_arena_free_all(model);
    fm_aligned_free(model->block);
    free(model);
}

size_t fm_model_bytes(const fm_model *model) { return model->bytes; }
