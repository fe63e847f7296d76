/* The block table, and the names and shapes of layers and endpoints that follow from it. */
#include "net/layers.h"

#include <stdio.h>

/* slim/nets/mobilenet/mobilenet_v2.py at depth multiplier 0.75, channels rounded to multiples of 8. */
static const fm_network network = {
    .size = 96,
    .colours = 3,
    .features = 1280,
    .classes = 1001,
    .layers = FM_LAYERS,
    .endpoints = FM_ENDPOINTS,
    .blocks = FM_BLOCKS,
};

static const fm_block blocks[] = {
    /* size  in  expand out stride */
    {48, 24, 24, 16, 1}, /* its "expansion" is the first convolution, from the image, with stride 2 */
    {48, 16, 96, 24, 2},  {24, 24, 144, 24, 1},  {24, 24, 144, 24, 2},  {12, 24, 144, 24, 1},
    {12, 24, 144, 24, 1}, {12, 24, 144, 48, 2},  {6, 48, 288, 48, 1},   {6, 48, 288, 48, 1},
    {6, 48, 288, 48, 1},  {6, 48, 288, 72, 1},   {6, 72, 432, 72, 1},   {6, 72, 432, 72, 1},
    {6, 72, 432, 120, 2}, {3, 120, 720, 120, 1}, {3, 120, 720, 120, 1}, {3, 120, 720, 240, 1},
};
_Static_assert(sizeof blocks / sizeof blocks[0] == FM_BLOCKS, "as many rows as layers.h says");
const fm_block *const fm_blocks = blocks;

const fm_network *fm_network_info(void) { return &network; }

static int last_size(void) { return fm_out_size(&fm_blocks[FM_BLOCKS - 1]); }

static fm_layer stem(void) {
    return (fm_layer){.scope = "MobilenetV2/Conv",
                      .kind = FM_CONV,
                      .kernel = 3,
                      .stride = 2,
                      .in_size = network.size,
                      .out_size = fm_blocks[0].size,
                      .in_channels = network.colours,
                      .out_channels = fm_blocks[0].expand,
                      .relu6 = 1};
}

static fm_layer head(void) {
    return (fm_layer){.scope = "MobilenetV2/Conv_1",
                      .kind = FM_POINTWISE,
                      .kernel = 1,
                      .stride = 1,
                      .in_size = last_size(),
                      .out_size = last_size(),
                      .in_channels = fm_blocks[FM_BLOCKS - 1].out,
                      .out_channels = network.features,
                      .relu6 = 1};
}

static fm_layer logits(void) {
    return (fm_layer){.scope = "MobilenetV2/Logits/Conv2d_1c_1x1",
                      .kind = FM_POINTWISE,
                      .kernel = 1,
                      .stride = 1,
                      .in_size = 1,
                      .out_size = 1,
                      .in_channels = network.features,
                      .out_channels = network.classes};
}

fm_layer fm_layer_info(int index) {
    if (index == 0) return stem();
    if (index == FM_HEAD) return head();
    if (index == FM_LOGITS) return logits();

    static const char *const part_names[] = {"expand", "depthwise", "project"};
    const int number = index / 3;
    const fm_block *block = &fm_blocks[number];
    const int expand = index == fm_expand_layer(number), depthwise = index == fm_depthwise_layer(number);
    const int project = index == fm_project_layer(number);
    fm_layer layer = {.kind = depthwise ? FM_DEPTHWISE : FM_POINTWISE,
                      .kernel = depthwise ? 3 : 1,
                      .stride = depthwise ? block->stride : 1,
                      .in_size = project ? fm_out_size(block) : block->size,
                      .out_size = expand ? block->size : fm_out_size(block),
                      .in_channels = expand ? block->in : block->expand,
                      .out_channels = project ? block->out : block->expand,
                      .relu6 = !project,
                      .residual = project && fm_has_residual(block)};
    char suffix[8] = "";
    if (number > 0) snprintf(suffix, sizeof suffix, "_%d", number % 100);
    snprintf(layer.scope, sizeof layer.scope, "MobilenetV2/expanded_conv%s/%s", suffix, part_names[index % 3]);
    return layer;
}

fm_endpoint fm_endpoint_info(int index) {
    fm_endpoint endpoint = {.size = last_size(), .channels = network.features};
    if (index == FM_HEAD_ENDPOINT) {
        snprintf(endpoint.name, sizeof endpoint.name, "MobilenetV2/layer_%d", FM_BLOCKS + 2);
        return endpoint;
    }
    if (index == FM_POOL_ENDPOINT) {
        snprintf(endpoint.name, sizeof endpoint.name, "MobilenetV2/global_pool");
        endpoint.size = 1;
        return endpoint;
    }

    static const char *const part_names[] = {"/expansion_output", "/depthwise_output", "", "/output",
                                             "/projection_output"};
    const int projection = index >= FM_ENDPOINTS;
    const int number = projection ? index - FM_ENDPOINTS : index / 4, part = projection ? 4 : index % 4;
    const fm_layer layer = fm_layer_info(fm_expand_layer(number) + fm_least(part, 2));
    if (index == 0) {
        snprintf(endpoint.name, sizeof endpoint.name, "MobilenetV2/layer_1");
    } else {
        snprintf(endpoint.name, sizeof endpoint.name, "MobilenetV2/layer_%d%s", number + 2, part_names[part]);
    }
    endpoint.size = layer.out_size;
    endpoint.channels = layer.out_channels;
    return endpoint;
}
