/* Making a float32 model: chooses kernels and packs weights. */
#include "float32/model.h"

#include <math.h>
#include <stdlib.h>

#include "float32/tables.h"

static size_t round_up(size_t floats) {
    const size_t unit = FM_ALIGN / sizeof(float);
    return (floats + unit - 1) / unit * unit;
}

/* The scaling of image rows. Pixels more than a quarter outside [0,1] cause a warning. */
static fm_float32_scale_args scale_for(float black, float white, int count) {
    const float span = white - black, low = fabsf(black - span / 4.0f), high = fabsf(white + span / 4.0f);
    return (fm_float32_scale_args){
        .count = count, .multiplier = span, .addend = black, .limit = low > high ? low : high};
}

fm_status fm_model_new(const fm_isa *isa, const fm_network *network, const fm_weights *weights, fm_model **result) {
    fm_float32_model *model = calloc(1, sizeof *model);
    if (!model) return FM_NO_MEMORY;
    fm_model *base = &model->base;
    base->tier = &fm_float32_tier;
    base->network = *network;
    base->has_logits = weights->kernels[FM_LOGITS] && weights->biases[FM_LOGITS];
    const fm_float32_kernels *widest = fm_float32_table(isa, 0);
    base->plan = fm_plan_for(
        network,
        &(fm_tier_needs){.element = sizeof(float), .slice = widest->lanes * widest->panel, .tile_rows = widest->rows});
    model->scale = scale_for(weights->black, weights->white, (int)base->plan.image_row);
    const int layers = base->has_logits ? FM_LAYERS : FM_LOGITS;
    size_t floats = 0;
    for (int i = 0; i < layers; i++) {
        const fm_layer layer = fm_layer_info(network, i);
        floats += round_up(fm_float32_packed_floats(&layer));
    }
    base->bytes = floats * sizeof(float);
    base->packed = fm_aligned_alloc(base->bytes);
    if (!base->packed) {
        free(model);
        return FM_NO_MEMORY;
    }

    float *packed = base->packed;
    for (int i = 0; i < layers; i++) {
        const fm_layer layer = fm_layer_info(network, i);
        const fm_float32_kernels *kernels = fm_float32_choose(isa, fm_float32_padded_columns(&layer));
        model->conv[i] = fm_float32_pack(&layer, kernels, weights->kernels[i], weights->biases[i], packed);
        packed += round_up(fm_float32_packed_floats(&layer));
    }
    *result = base;
    return FM_OK;
}
