/* Making an 8-bit model: kernels chosen, weights packed. */
#include "int8/model.h"

#include <stdlib.h>
#include <string.h>

#include "int8/tables.h"

enum { VALUES = 256 };

static void pack_all(fm_int8_model *model, fm_int8_store *store, const fm_int8_kernels *kernels,
                     const fm_int8_weights *weights) {
    const fm_network *network = &model->base.network;
    const size_t sums = (size_t)(fm_last_pixels(network) * 255 + 1);
    const int row_bytes = (int)fm_image_row_bytes(&model->base.plan);
    for (int i = 0; i < (model->base.has_logits ? FM_LAYERS : FM_LOGITS); i++) {
        const fm_layer layer = fm_layer_info(network, i);
        const fm_int8_layer *own = &weights->layers[i];
        if (layer.kind == FM_DEPTHWISE) model->depthwise[i / 3] = fm_int8_pack_depthwise(store, kernels, &layer, own);
        else model->conv[i] = fm_int8_pack_conv(store, kernels, &layer, own, row_bytes);
    }
    for (int b = 0; b < FM_BLOCKS; b++) {
        model->expanded_zero[b] = (uint8_t)weights->layers[fm_depthwise_layer(b)].in_zero;
        if (network->blocks[b].residual) model->add[b] = fm_int8_pack_add(store, kernels, &weights->sums[b]);
    }
    model->image_zero = (uint8_t)weights->layers[0].in_zero;
    model->pool = fm_int8_take(store, sums);
    model->feature = fm_int8_take(store, VALUES * sizeof(float));
    model->logit = fm_int8_take(store, VALUES * sizeof(float));
    if (!store->block) return;
    memcpy(model->pool, weights->pool, sums);
    memcpy(model->feature, weights->feature, VALUES * sizeof(float));
    if (model->base.has_logits) memcpy(model->logit, weights->logit, VALUES * sizeof(float));
}

fm_status fm_int8_model_new(const fm_isa *isa, const fm_network *network, const fm_int8_weights *weights,
                            fm_model **result) {
    const fm_int8_kernels *kernels = fm_int8_table(isa);
    fm_int8_model *model = calloc(1, sizeof *model);
    if (!model) return FM_NO_MEMORY;
    fm_model *base = &model->base;
    base->tier = &fm_int8_tier;
    base->network = *network;
    base->has_logits = weights->layers[FM_LOGITS].kernel != NULL;
    /* Bytes are a quarter of the size: a block's expanded rows fit the nearest cache at their full width. */
    base->plan = fm_plan_for(network, &(fm_tier_needs){.element = 1,
                                                       .chunk_rows = 2,
                                                       .padding = 1,
                                                       .tile_rows = kernels->rows,
                                                       .ring_rows = 4, /* what two output rows read */
                                                       .slack = FM_INT8_SLACK});
    fm_int8_store store = {NULL, 0};
    pack_all(model, &store, kernels, weights); /* measures */
    base->bytes = store.used;
    base->packed = fm_aligned_alloc(base->bytes);
    if (!base->packed) {
        free(model);
        return FM_NO_MEMORY;
    }
    store = (fm_int8_store){base->packed, 0};
    pack_all(model, &store, kernels, weights);
    *result = base;
    return FM_OK;
}
