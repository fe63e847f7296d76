/* Names and shapes of layers and endpoints, derived from the block table. */
#include <stdio.h>

#include "net/network.h"

fm_layer fm_layer_info(int index) {
    fm_layer layer = {.kind = FM_POINTWISE, .kernel = 1, .stride = 1, .in_size = 3, .out_size = 3};
    if (index == 0) {
        return (fm_layer){"MobilenetV2/Conv", FM_CONV, 3, 2, FM_SIZE, FM_SIZE / 2, 3, fm_blocks[0].expand, 1, 0};
    }
    if (index == FM_HEAD) {
        snprintf(layer.scope, sizeof layer.scope, "MobilenetV2/Conv_1");
        layer.in_channels = fm_blocks[FM_BLOCKS - 1].out;
        layer.out_channels = FM_FEATURES;
        layer.relu6 = 1;
        return layer;
    }
    if (index == FM_LOGITS) {
        snprintf(layer.scope, sizeof layer.scope, "MobilenetV2/Logits/Conv2d_1c_1x1");
        layer.in_size = layer.out_size = 1;
        layer.in_channels = FM_FEATURES;
        layer.out_channels = FM_CLASSES;
        return layer;
    }

    static const char *const part_names[] = {"expand", "depthwise", "project"};
    const int number = index / 3, part = index % 3;
    const fm_block *block = &fm_blocks[number];
    char suffix[8] = "";
    if (number > 0) snprintf(suffix, sizeof suffix, "_%d", number % 100);
    snprintf(layer.scope, sizeof layer.scope, "MobilenetV2/expanded_conv%s/%s", suffix, part_names[part]);
    layer.in_channels = part == 0 ? block->in : block->expand;
    layer.out_channels = part == 2 ? block->out : block->expand;
    layer.relu6 = part != 2;
    layer.residual = part == 2 && fm_has_residual(block);
    if (part == 1) {
        layer.kind = FM_DEPTHWISE;
        layer.kernel = 3;
        layer.stride = block->stride;
    }
    layer.in_size = part == 2 ? block->size / block->stride : block->size;
    layer.out_size = part == 0 ? block->size : block->size / block->stride;
    return layer;
}

fm_endpoint fm_endpoint_info(int index) {
    fm_endpoint endpoint = {.size = 3, .channels = FM_FEATURES};
    if (index == FM_HEAD_ENDPOINT) {
        snprintf(endpoint.name, sizeof endpoint.name, "MobilenetV2/layer_%d", FM_BLOCKS + 2);
        return endpoint;
    }
    if (index == FM_POOL_ENDPOINT) {
        snprintf(endpoint.name, sizeof endpoint.name, "MobilenetV2/global_pool");
        endpoint.size = 1;
        return endpoint;
    }

    static const char *const part_names[] = {"/expansion_output", "/depthwise_output", "", "/output"};
    const int number = index / 4, part = index % 4;
    const fm_layer layer = fm_layer_info(3 * number + (part < 2 ? part : 2));
    if (index == 0) {
        snprintf(endpoint.name, sizeof endpoint.name, "MobilenetV2/layer_1");
    } else {
        snprintf(endpoint.name, sizeof endpoint.name, "MobilenetV2/layer_%d%s", number + 2, part_names[part]);
    }
    endpoint.size = layer.out_size;
    endpoint.channels = layer.out_channels;
    return endpoint;
}
