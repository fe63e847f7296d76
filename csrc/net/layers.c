/* The network: TF-Slim's rule (slim/nets/mobilenet/mobilenet_v2.py), and the names and shapes of layers and endpoints
 * that follow from it. No other file contains a number of channels, a size or a padding. */
#include "net/layers.h"

#include <stdio.h>

/* The seven stages at multiplier 1. Stride is the first block's; channels are those of the outputs. */
static const struct {
    int blocks, channels, stride;
} stages[] = {{1, 16, 1}, {2, 24, 2}, {3, 32, 2}, {4, 64, 2}, {3, 96, 1}, {3, 160, 2}, {1, 320, 1}};

enum {
    STAGES = sizeof stages / sizeof stages[0],
    STEM = 32,       /* outputs of the first convolution */
    FEATURES = 1280, /* outputs of the last convolution, also at multipliers below 1 */
    EXPANSION = 6,   /* expanded channels for each of a block's input channels, after rounding */
    KERNEL = 3,      /* height and width of every kernel that isn't pointwise */
    STEM_STRIDE = 2,
    MIN_SIZE = 32,  /* the last map is one pixel */
    MAX_SIZE = 512, /* the 8-bit pool's sums have 16 bits */
};

/* Rounds to the nearest multiple of 8, or to the next larger one if rounding would lose more than a tenth. */
static int channels_of(int unscaled, double multiplier) {
    enum { UNIT = 8 };
    const double wanted = unscaled * multiplier;
    const int nearest = fm_max(UNIT, (int)(wanted + UNIT / 2) / UNIT * UNIT);
    return nearest < 0.9 * wanted ? nearest + UNIT : nearest;
}

/* SAME padding: inputs / stride outputs, rounded up. The padding that this takes is split between the two sides; an odd
 * pixel goes to the end. */
static int same_outputs(int inputs, int stride) { return (inputs + stride - 1) / stride; }
static int same_padding_before(int inputs, int stride) {
    return fm_max(0, (same_outputs(inputs, stride) - 1) * stride + KERNEL - inputs) / 2;
}

static fm_block block_after(int height, int width, int in, int expand, int out, int stride) {
    return (fm_block){.height = height,
                      .width = width,
                      .out_height = same_outputs(height, stride),
                      .out_width = same_outputs(width, stride),
                      .pad_top = same_padding_before(height, stride),
                      .pad_left = same_padding_before(width, stride),
                      .in = in,
                      .expand = expand,
                      .out = out,
                      .stride = stride,
                      .residual = stride == 1 && in == out};
}

static int size_exists(int size) { return size >= MIN_SIZE && size <= MAX_SIZE; }

fm_status fm_network_make(double multiplier, int height, int width, fm_network *result) {
    if (!(multiplier >= 0.25 && multiplier <= 2.0)) return FM_NO_NETWORK; /* also if it is NaN */
    if (!size_exists(height) || !size_exists(width)) return FM_NO_NETWORK;
    fm_network network = {.multiplier = multiplier,
                          .height = height,
                          .width = width,
                          .pad_top = same_padding_before(height, STEM_STRIDE),
                          .pad_left = same_padding_before(width, STEM_STRIDE),
                          .colours = 3,
                          .features = channels_of(FEATURES, multiplier > 1.0 ? multiplier : 1.0),
                          .classes = 1001};
    int b = 0, in = channels_of(STEM, multiplier);
    height = same_outputs(height, STEM_STRIDE);
    width = same_outputs(width, STEM_STRIDE);
    for (int stage = 0; stage < STAGES; stage++) {
        const int out = channels_of(stages[stage].channels, multiplier);
        for (int i = 0; i < stages[stage].blocks; i++, b++) {
            const int expand = b == 0 ? in : EXPANSION * in, stride = i == 0 ? stages[stage].stride : 1;
            network.blocks[b] = block_after(height, width, in, expand, out, stride);
            height = network.blocks[b].out_height;
            width = network.blocks[b].out_width;
            in = out;
        }
    }
    *result = network;
    return FM_OK;
}

static fm_layer stem(const fm_network *network) {
    const fm_block *first = &network->blocks[0];
    return (fm_layer){.scope = "MobilenetV2/Conv",
                      .kind = FM_CONV,
                      .kernel = KERNEL,
                      .stride = STEM_STRIDE,
                      .in_height = network->height,
                      .in_width = network->width,
                      .out_height = first->height,
                      .out_width = first->width,
                      .pad_top = network->pad_top,
                      .pad_left = network->pad_left,
                      .in_channels = network->colours,
                      .out_channels = first->expand,
                      .relu6 = 1};
}

/* A pointwise layer on a map. */
static fm_layer pointwise(int height, int width, int in_channels, int out_channels) {
    return (fm_layer){.kind = FM_POINTWISE,
                      .kernel = 1,
                      .stride = 1,
                      .in_height = height,
                      .in_width = width,
                      .out_height = height,
                      .out_width = width,
                      .in_channels = in_channels,
                      .out_channels = out_channels};
}

static fm_layer head(const fm_network *network) {
    const fm_block *last = &network->blocks[FM_BLOCKS - 1];
    fm_layer layer = pointwise(last->out_height, last->out_width, last->out, network->features);
    layer.relu6 = 1;
    snprintf(layer.scope, sizeof layer.scope, "MobilenetV2/Conv_1");
    return layer;
}

static fm_layer logits(const fm_network *network) {
    fm_layer layer = pointwise(1, 1, network->features, network->classes);
    snprintf(layer.scope, sizeof layer.scope, "MobilenetV2/Logits/Conv2d_1c_1x1");
    return layer;
}

static fm_layer expand(const fm_block *block) {
    fm_layer layer = pointwise(block->height, block->width, block->in, block->expand);
    layer.relu6 = 1;
    return layer;
}

static fm_layer depthwise(const fm_block *block) {
    return (fm_layer){.kind = FM_DEPTHWISE,
                      .kernel = KERNEL,
                      .stride = block->stride,
                      .in_height = block->height,
                      .in_width = block->width,
                      .out_height = block->out_height,
                      .out_width = block->out_width,
                      .pad_top = block->pad_top,
                      .pad_left = block->pad_left,
                      .in_channels = block->expand,
                      .out_channels = block->expand,
                      .relu6 = 1};
}

static fm_layer project(const fm_block *block) {
    fm_layer layer = pointwise(block->out_height, block->out_width, block->expand, block->out);
    layer.residual = block->residual;
    return layer;
}

fm_layer fm_layer_info(const fm_network *network, int index) {
    if (index == 0) return stem(network);
    if (index == FM_HEAD) return head(network);
    if (index == FM_LOGITS) return logits(network);

    static const char *const part_names[] = {"expand", "depthwise", "project"};
    const int number = index / 3, part = index % 3;
    const fm_block *block = &network->blocks[number];
    fm_layer layer = part == 0 ? expand(block) : part == 1 ? depthwise(block) : project(block);
    char suffix[8] = "";
    if (number > 0) snprintf(suffix, sizeof suffix, "_%d", number % 100);
    snprintf(layer.scope, sizeof layer.scope, "MobilenetV2/expanded_conv%s/%s", suffix, part_names[part]);
    return layer;
}

fm_endpoint fm_endpoint_info(const fm_network *network, int index) {
    fm_endpoint endpoint = {.height = 1, .width = 1, .channels = network->features};
    if (index == FM_POOL_ENDPOINT) {
        snprintf(endpoint.name, sizeof endpoint.name, "MobilenetV2/global_pool");
        return endpoint;
    }

    static const char *const part_names[] = {"/expansion_output", "/depthwise_output", "", "/output",
                                             "/projection_output"};
    const int projection = index >= FM_ENDPOINTS;
    const int number = projection ? index - FM_ENDPOINTS : index / 4, part = projection ? 4 : index % 4;
    const int at_head = index == FM_HEAD_ENDPOINT;
    const fm_layer layer = fm_layer_info(network, at_head ? FM_HEAD : fm_expand_layer(number) + fm_min(part, 2));
    if (index == 0) {
        snprintf(endpoint.name, sizeof endpoint.name, "MobilenetV2/layer_1");
    } else {
        snprintf(endpoint.name, sizeof endpoint.name, "MobilenetV2/layer_%d%s", number + 2,
                 at_head ? "" : part_names[part]);
    }
    endpoint.height = layer.out_height;
    endpoint.width = layer.out_width;
    endpoint.channels = layer.out_channels;
    return endpoint;
}
