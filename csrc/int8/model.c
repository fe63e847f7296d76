/* Making an 8-bit model: chooses kernels and packs weights. */
#include "int8/model.h"

#include <stdlib.h>
#include <string.h>

#include "int8/arrange.h"
#include "int8/tables.h"

enum { VALUES = 256 };

/* Buffers used while weights are packed: for finding an order, and for a layer in that order. */
typedef struct scratch {
    fm_int8_couple *couples;
    char *layer;
} scratch;

static int make_scratch(const fm_network *network, scratch *room) {
    size_t channels = 0, bytes = 0;
    for (int i = 0; i < 3 * FM_BLOCKS; i++) {
        const fm_layer layer = fm_layer_info(network, i);
        const size_t rows =
            (size_t)(layer.kernel * layer.kernel * (layer.kind == FM_DEPTHWISE ? 1 : layer.in_channels));
        const size_t columns = (size_t)layer.out_channels,
                     own = rows * columns + columns * (sizeof(int32_t) + sizeof(float));
        channels = columns > channels ? columns : channels;
        bytes = own > bytes ? own : bytes;
    }
    room->couples = malloc(2 * channels * sizeof *room->couples);
    room->layer = malloc(bytes);
    return room->couples && room->layer;
}

/* Chooses the order of a block's expanded channels. */
static void arrange_block(fm_int8_model *model, fm_int8_store *store, const fm_int8_kernels *kernels,
                          const fm_int8_weights *weights, int b, const scratch *room) {
    const fm_network *network = &model->base.network;
    const fm_layer expand = fm_layer_info(network, fm_expand_layer(b));
    const fm_layer project = fm_layer_info(network, fm_project_layer(b));
    int16_t *order = fm_int8_take(store, sizeof *order * (size_t)project.in_channels);
    if (store->block) {
        fm_int8_arrange(kernels, &expand, &weights->layers[fm_expand_layer(b)], &project,
                        &weights->layers[fm_project_layer(b)], room->couples, order);
    }
    model->order[b] = order;
}

/* A layer's weights in the order of its block's expanded channels. */
static fm_int8_layer arranged(const fm_int8_model *model, const fm_layer *layer, int index, const fm_int8_layer *own,
                              const scratch *room) {
    const int16_t *order = index < 3 * FM_BLOCKS ? model->order[index / 3] : NULL;
    const int inputs = layer->kind == FM_DEPTHWISE ? 1 : layer->in_channels,
              rows = layer->kernel * layer->kernel * inputs;
    if (!order) return *own;
    if (index == fm_project_layer(index / 3)) {
        return fm_int8_arranged_rows(own, rows, layer->out_channels, order, room->layer);
    }
    return fm_int8_arranged_columns(own, rows, layer->out_channels, order, room->layer);
}

static void pack_all(fm_int8_model *model, fm_int8_store *store, const fm_int8_kernels *kernels,
                     const fm_int8_weights *weights, const scratch *room) {
    const fm_network *network = &model->base.network;
    const size_t sums = (size_t)(fm_last_pixels(network) * 255 + 1);
    const int row_bytes = (int)fm_image_row_bytes(&model->base.plan);
    for (int i = 0; i < (model->base.has_logits ? FM_LAYERS : FM_LOGITS); i++) {
        const fm_layer layer = fm_layer_info(network, i);
        const int b = i / 3, expands = b < FM_BLOCKS && i == fm_expand_layer(b);
        /* If block 0 has a residual, its outputs are added to its expanded channels, so these keep their order. */
        const int added = b == 0 && network->blocks[0].residual;
        if (kernels->pair_max && expands && !added) {
            arrange_block(model, store, kernels, weights, b, room);
        }
        const fm_int8_layer own = arranged(model, &layer, i, &weights->layers[i], room);
        if (layer.kind == FM_DEPTHWISE) model->depthwise[i / 3] = fm_int8_pack_depthwise(store, kernels, &layer, &own);
        else model->conv[i] = fm_int8_pack_conv(store, kernels, &layer, &own, row_bytes);
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
    /* Bytes take a quarter of the space, so a block's expanded rows fit in L1 with all their channels. */
    base->plan =
        fm_plan_for(network, &(fm_tier_needs){.element = 1,
                                              .chunk_rows = 4, /* two rows: 1 to 2 % slower in every network (Zen 3) */
                                              .padding = 1,
                                              .tile_rows = kernels->rows,
                                              .ring_rows = 4, /* the input rows of two output rows */
                                              .slack = FM_INT8_SLACK});
    fm_int8_store store = {NULL, 0};
    scratch room = {NULL, NULL};
    pack_all(model, &store, kernels, weights, &room); /* computes the size only */
    base->packed = fm_aligned_alloc(store.used);
    const int complete = base->packed && make_scratch(network, &room);
    if (complete) {
        store = (fm_int8_store){base->packed, 0};
        pack_all(model, &store, kernels, weights, &room);
        base->bytes = store.used;
        *result = base;
    }
    free(room.couples);
    free(room.layer);
    if (complete) return FM_OK;
    fm_aligned_free(base->packed);
    free(model);
    return FM_NO_MEMORY;
}
