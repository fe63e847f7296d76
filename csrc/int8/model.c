/* Making and freeing an 8-bit model, and its working memory. */
#include "int8/network.h"

#include <stdlib.h>
#include <string.h>

#include "int8/tables.h"
#include "net/arena.h"

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static size_t rounded(size_t bytes) { return (bytes + FM_INT8_SLACK + FM_ALIGN - 1) / FM_ALIGN * FM_ALIGN; }

/* ---- the plan --------------------------------------------------------------------------------------- */

static fm_int8_plan plan_of(const fm_block *block) {
    const int whole = block->size <= FM_INT8_WHOLE_MAP;
    return (fm_int8_plan){
        .ring_rows = whole ? block->size : FM_INT8_RING,
        .turn = whole ? block->size / block->stride : FM_INT8_TURN / block->stride,
        .by_channels = 2 * block->size <= FM_INT8_WHOLE_MAP,
    };
}

static fm_int8_sizes sizes_of(const fm_int8_plan *plan) {
    fm_int8_sizes sizes = {0};
    sizes.image_row = rounded((FM_SIZE + 1) * 3);
    sizes.image = (FM_SIZE + 1) * sizes.image_row;
    for (int b = 0; b < FM_BLOCKS; b++) {
        const fm_block *block = &fm_blocks[b];
        const size_t out_size = (size_t)(block->size / block->stride), expand = (size_t)block->expand;
        const size_t row = (size_t)(block->size + 2) * expand;
        sizes.map = larger(sizes.map, out_size * out_size * (size_t)block->out);
        sizes.ring = larger(sizes.ring, (size_t)plan[b].ring_rows * row);
        sizes.border = larger(sizes.border, row);
        sizes.depthwise = larger(sizes.depthwise, (size_t)plan[b].turn * out_size * expand);
    }
    const size_t last = (size_t)(fm_blocks[FM_BLOCKS - 1].size * fm_blocks[FM_BLOCKS - 1].size);
    sizes.ring = larger(sizes.ring, last * FM_FEATURES); /* the head's map */
    return sizes;
}

/* ---- working memory --------------------------------------------------------------------------------- */

static fm_int8_arena *new_arena(const fm_int8_model *model) {
    const fm_int8_sizes *sizes = &model->sizes;
    const size_t head = rounded(sizeof(fm_int8_arena));
    const size_t bytes = head + rounded(sizes->image) + 2 * rounded(sizes->map) + rounded(sizes->ring) +
                         rounded(sizes->border) + rounded(sizes->depthwise);
    char *at = fm_aligned_alloc(bytes);
    if (!at) return NULL;
    memset(at, 0, bytes); /* what is read behind an array is at least not undefined */
    fm_int8_arena *arena = (fm_int8_arena *)(void *)at;
    struct {
        uint8_t **array;
        size_t size;
    } parts[] = {
        {&arena->image, sizes->image},   {&arena->map[0], sizes->map},    {&arena->map[1], sizes->map},
        {&arena->ring, sizes->ring},     {&arena->border, sizes->border}, {&arena->depthwise, sizes->depthwise},
    };
    at += head;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        *parts[i].array = (uint8_t *)at;
        at += rounded(parts[i].size);
    }
    memset(arena->image, model->image_zero, sizes->image); /* its borders stay as they are */
    return arena;
}

enum { SLOTS = sizeof(((fm_int8_model *)0)->idle) / sizeof(((fm_int8_model *)0)->idle[0]) };

fm_int8_arena *fm_int8_arena_take(fm_int8_model *model) {
    for (int i = 0; i < SLOTS; i++) {
        fm_int8_arena *arena = atomic_exchange(&model->idle[i], NULL);
        if (arena) return arena;
    }
    return new_arena(model);
}

void fm_int8_arena_give(fm_int8_model *model, fm_int8_arena *arena) {
    for (int i = 0; i < SLOTS; i++) {
        fm_int8_arena *empty = NULL;
        if (atomic_compare_exchange_strong(&model->idle[i], &empty, arena)) return;
    }
    fm_aligned_free(arena);
}

/* ---- the model -------------------------------------------------------------------------------------- */

static void pack_all(fm_int8_model *model, fm_int8_store *store, const fm_int8_kernels *kernels,
                     const fm_int8_weights *weights) {
    const fm_block *last = &fm_blocks[FM_BLOCKS - 1];
    const size_t sums = (size_t)(last->size * last->size * 255 + 1);
    for (int i = 0; i < (model->has_logits ? FM_LAYERS : FM_LOGITS); i++) {
        const fm_layer layer = fm_layer_info(i);
        if (layer.kind != FM_DEPTHWISE) {
            model->conv[i] = fm_int8_pack_conv(store, kernels, &layer, &weights->layer[i], (int)model->sizes.image_row);
            continue;
        }
        const int b = i / 3;
        model->depthwise[b] = fm_int8_pack_depthwise(store, kernels, &layer, &weights->layer[i]);
        model->depthwise_zero[b] = weights->layer[i].in_zero;
        if (fm_has_residual(&fm_blocks[b])) model->add[b] = fm_int8_pack_add(store, kernels, &weights->sum[b]);
    }
    model->pool = fm_int8_take(store, sums);
    model->value = fm_int8_take(store, 256 * sizeof(float));
    if (!store->block) return;
    memcpy(model->pool, weights->pool, sums);
    memcpy(model->value, weights->value, 256 * sizeof(float));
}

fm_status fm_int8_model_new(const fm_isa *isa, const fm_int8_weights *weights, fm_int8_model **result) {
    const fm_int8_kernels *kernels = fm_int8_table(isa);
    fm_int8_model *model = calloc(1, sizeof *model);
    fm_int8_store store = {NULL, 0};
    if (!model) return FM_NO_MEMORY;
    model->has_logits = weights->layer[FM_LOGITS].kernel != NULL;
    model->image_zero = weights->layer[0].in_zero;
    for (int b = 0; b < FM_BLOCKS; b++) model->plan[b] = plan_of(&fm_blocks[b]);
    model->sizes = sizes_of(model->plan);

    pack_all(model, &store, kernels, weights); /* measures */
    model->bytes = store.used;
    model->block = fm_aligned_alloc(model->bytes);
    if (!model->block) {
        free(model);
        return FM_NO_MEMORY;
    }
    store = (fm_int8_store){model->block, 0};
    pack_all(model, &store, kernels, weights);
    *result = model;
    return FM_OK;
}

void fm_int8_model_free(fm_int8_model *model) {
    if (!model) return;
    for (int i = 0; i < SLOTS; i++) fm_aligned_free(atomic_exchange(&model->idle[i], NULL));
    fm_aligned_free(model->block);
    free(model);
}

size_t fm_int8_model_bytes(const fm_int8_model *model) { return model->bytes; }
