/* Models and images for any member of the family, the same on every machine, and a call of a model. */
#ifndef SAMPLE_MODELS_H
#define SAMPLE_MODELS_H

#include <stdint.h>
#include <stdlib.h>

#include "fastmnv2.h"

enum { IMAGES = 5 };

/* The current network, and how many numbers its images and features have. */
static fm_network network;
static size_t pixels, features_each;

static void make_network(double multiplier, int height, int width) {
    if (fm_network_make(multiplier, height, width, &network) != FM_OK) abort();
    pixels = (size_t)(height * width * network.colours);
    features_each = (size_t)network.features;
}

/* ---- input that is the same everywhere: integers times powers of two ---- */

static uint32_t state = 1;

static uint32_t next(void) { /* Marsaglia's xorshift32 */
    state ^= state << 13;
    state ^= state >> 17;
    return state ^= state << 5;
}

static float between(float scale) { return ((float)(next() >> 9) / (float)(1 << 22) - 1.0f) * scale; }

/* A power of two near sqrt(6 / inputs), which keeps activations in a useful range. */
static float weight_scale(int inputs) {
    float scale = 1.0f;
    while (scale * scale * (float)inputs > 8.0f) scale /= 2.0f;
    return scale;
}

static void *need(void *block) {
    if (!block) abort();
    return block;
}

static const float *kernels[FM_LAYERS], *biases[FM_LAYERS];

static fm_weights make_weights(void) {
    state = 1;
    for (int i = 0; i < FM_LAYERS; i++) {
        const fm_layer layer = fm_layer_info(&network, i);
        const int inputs = layer.kernel * layer.kernel * (layer.kind == FM_DEPTHWISE ? 1 : layer.in_channels);
        const size_t count = (size_t)inputs * (size_t)layer.out_channels;
        float *kernel = need(malloc(count * sizeof(float)));
        float *bias = need(malloc((size_t)layer.out_channels * sizeof(float)));
        for (size_t k = 0; k < count; k++) kernel[k] = between(weight_scale(inputs));
        for (int k = 0; k < layer.out_channels; k++) bias[k] = between(0.5f) + (layer.relu6 ? 0.5f : 0.0f);
        kernels[i] = kernel;
        biases[i] = bias;
    }
    return (fm_weights){.kernels = kernels, .biases = biases, .black = -1.0f, .white = 1.0f};
}

static void free_weights(void) {
    for (int i = 0; i < FM_LAYERS; i++) {
        free((void *)(uintptr_t)kernels[i]);
        free((void *)(uintptr_t)biases[i]);
    }
}

static float *float_images;
static uint8_t *byte_images;

static void make_images(void) {
    float_images = need(malloc(IMAGES * pixels * sizeof *float_images));
    byte_images = need(malloc(IMAGES * pixels));
    state = 2;
    for (int i = 0; i < IMAGES * (int)pixels; i++) {
        byte_images[i] = (uint8_t)(next() >> 24);
        float_images[i] = (between(0.5f) + 0.5f);
    }
}

static void free_images(void) {
    free(float_images);
    free(byte_images);
}

/* ---- the 8-bit tier ---- */

enum { MOST_SUMS = 16 * 16 * 255 + 1, VALUES = 256 };

static fm_int8_layer int8_layers[FM_LAYERS];
static fm_int8_sum int8_sums[FM_BLOCKS];
static uint8_t pool[MOST_SUMS];
static float value[VALUES];

/* Multipliers that use the outputs' whole range, so that rounding loses little. */
static fm_int8_layer make_int8_layer(int index) {
    const fm_layer layer = fm_layer_info(&network, index), before = fm_layer_info(&network, index > 0 ? index - 1 : 0);
    const int inputs = layer.kernel * layer.kernel * (layer.kind == FM_DEPTHWISE ? 1 : layer.in_channels);
    const size_t count = (size_t)inputs * (size_t)layer.out_channels, outputs = (size_t)layer.out_channels;
    uint8_t *kernel = need(malloc(count));
    int32_t *bias = need(malloc(outputs * sizeof *bias));
    float *scale = need(malloc(outputs * sizeof *scale));
    const int zero = 100 + (int)(next() % 60);
    for (size_t k = 0; k < count; k++) {
        const int odd = next() % 4001 == 0;
        kernel[k] = (uint8_t)(odd ? (int)(next() >> 24) : zero - 60 + (int)((next() >> 24) % 120));
    }
    for (size_t k = 0; k < outputs; k++) {
        bias[k] = (int)(next() % 20001) - 5000;
        scale[k] = weight_scale(inputs) * (float)(1 + next() % 1000) * (1.0f / 32768.0f);
    }
    const int linear_before = index > 0 && !before.relu6;
    return (fm_int8_layer){kernel,
                           bias,
                           scale,
                           zero,
                           index == 0      ? 128
                           : linear_before ? 121
                                           : 0,
                           layer.relu6 ? 0 : 121,
                           0,
                           layer.relu6 && index % 4 == 1 ? 240 : 255};
}

static fm_model *make_int8_model(const fm_isa *isa) {
    const fm_layer head = fm_layer_info(&network, FM_LAYERS - 2);
    const int last = head.out_height * head.out_width; /* pixels */
    const fm_int8_weights weights = {int8_layers, int8_sums, pool, value, value};
    fm_model *model = NULL;
    state = 3;
    for (int i = 0; i < FM_LAYERS; i++) {
        int8_layers[i] = make_int8_layer(i);
        if (fm_layer_info(&network, i).residual)
            int8_sums[i / 3] = (fm_int8_sum){1200000 + i, 900001, 20, 121, 121, 121, 0, 255};
    }
    for (int i = 0; i <= 255 * last; i++) pool[i] = (uint8_t)((i + last / 2) / last);
    for (int i = 0; i < VALUES; i++) value[i] = (float)i * 0.0234375f;
    if (fm_int8_model_new(isa, &network, &weights, &model) != FM_OK) abort();
    for (int i = 0; i < FM_LAYERS; i++) {
        free((void *)(uintptr_t)int8_layers[i].kernel);
        free((void *)(uintptr_t)int8_layers[i].bias);
        free((void *)(uintptr_t)int8_layers[i].scale);
    }
    return model;
}

/* ---- a call ---- */

static fm_model *make_model(const fm_isa *isa, const fm_weights *weights) {
    fm_model *model = NULL;
    if (fm_model_new(isa, &network, weights, &model) != FM_OK) abort();
    return model;
}

static void forward(const fm_model *model, fm_dtype dtype, size_t first, size_t n, int threads, float *features) {
    const void *images = dtype == FM_UINT8 ? (const void *)(byte_images + first * pixels)
                                           : (const void *)(float_images + first * pixels);
    const fm_request request = {.images = images, .dtype = dtype, .n = n, .features = features, .threads = threads};
    int outside = 0;
    if (fm_forward(model, &request, &outside) != FM_OK) abort();
}

static uint64_t fnv1a(uint64_t hash, const void *data, size_t bytes) {
    const unsigned char *p = data;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

#endif
