"""keras.applications.MobileNetV2 with given TF-Slim variables, and models around it."""

import re

import numpy as np

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


def randomised(model, seed=0):
    """Give a head random variables instead of zeros and ones, with variances above 0. Return the model."""
    rng = np.random.RandomState(seed)
    for layer in model.layers:
        if type(layer).__name__ == "Dense":
            layer.set_weights([rng.normal(0, 1 / np.sqrt(w.shape[0]), w.shape) for w in layer.get_weights()])
        elif type(layer).__name__ == "BatchNormalization" and not layer.name.endswith(("_BN", "_bn", "_Conv1")):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


def whole(network, after, before=(), nested=True):
    import keras

    inputs = keras.Input((96, 96, 3))
    x = inputs
    for layer in before:
        x = layer(x)
    x = network(x) if nested else keras.Model(network.input, network.output)(x)
    for layer in after:
        x = layer(x)
    return randomised(keras.Model(inputs, x))


def saved(model, path):
    model.save(path)
    return path


def keras_output(model, images):
    """Keras' output for images, without the seconds that ``predict`` takes to compile."""
    return np.asarray(model(np.asarray(images, np.float32), training=False))


def near(ours, theirs, bar=1e-5):
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) <= bar * np.linalg.norm(theirs)
