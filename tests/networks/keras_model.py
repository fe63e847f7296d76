"""keras.applications.MobileNetV2 with given TF-Slim variables."""

import re

BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def slim_scope(layer):
    """TF-Slim's scope of a Keras layer's name, written independently of fastmnv2.weights.forms.keras."""
    plain = re.sub(r"(_BN|_bn)$", "", layer.removeprefix("bn_"))
    if plain in ("Conv1", "Conv_1"):
        return "MobilenetV2/Conv" if plain == "Conv1" else "MobilenetV2/Conv_1"
    block, part = re.fullmatch(r"(expanded_conv|block_\d+)_(\w+)", plain).groups()
    return f"MobilenetV2/{block.replace('block', 'expanded_conv')}/{part}"


def keras_model(variables, top=False, alpha=0.75, size=(96, 96)):
    """The Keras network with these variables: with the 1000 classes if ``top``, otherwise with pooled features."""
    import keras

    network = keras.applications.MobileNetV2(
        alpha=alpha, input_shape=(*size, 3), include_top=top, pooling=None if top else "avg", weights=None
    )
    for layer in network.layers:
        if layer.name == "predictions" or not layer.weights:
            continue
        scope = slim_scope(layer.name)
        if "BatchNormalization" in type(layer).__name__:
            layer.set_weights([variables[f"{scope}/BatchNorm/{name}"] for name in BATCH_NORM])
        else:
            name = "depthwise_weights" if "Depthwise" in type(layer).__name__ else "weights"
            layer.set_weights([variables[f"{scope}/{name}"]])
    return network
