"""TFLite files and TF2 SavedModels, written by TensorFlow's own converter and saver."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from fastmnv2.core.head import TENSORS
from fastmnv2.core.network import BATCH_NORM, Layer
from fastmnv2.export import tflite_metadata
from fastmnv2.weights.forms.object_graph import RANGE_VARIABLE
from fastmnv2.weights.tensors import Folded, Source

_SPEC = {"dtype": tf.float32, "name": "images"}


def write_tflite(path: Path, _source: Source, folded: Folded) -> None:
    """Write ``folded`` as float32, for one image; see ``fastmnv2.export``."""
    tensors = folded.tensors | (folded.head.tensors if folded.head else {})
    run = _outputs(folded, tensors.__getitem__, _folded_norm)
    module = tf.Module()
    module.run = tf.function(run, input_signature=[tf.TensorSpec([1, *folded.network.image_shape], **_SPEC)])
    # Passing the module that holds the function gives the file a signature with the outputs' names.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.run.get_concrete_function()], module)
    path.write_bytes(tflite_metadata.added(converter.convert(), folded.head.classes if folded.head else None))


def write_saved_model(path: Path, source: Source, folded: Folded) -> None:
    """Write a folder. Its variables have TF-Slim's names, and include batch norms if ``source`` has them."""
    trained = f"{folded.network.layers[0].scope}/BatchNorm/{BATCH_NORM[0]}" in source.tensors
    tensors = dict(source.tensors if trained else folded.tensors) | (folded.head.tensors if folded.head else {})
    module = tf.Module()
    names = {name: tf.Variable(values, trainable="moving_" not in name, name=name) for name, values in tensors.items()}
    input_range = tf.Variable(folded.range, trainable=False, dtype=tf.float32, name=RANGE_VARIABLE)
    module.all_variables = [*names.values(), input_range]
    run = _outputs(folded, names.__getitem__, _norm_of(folded.network.epsilon) if trained else _folded_norm)
    batch = [tf.TensorSpec([None, *folded.network.image_shape], **_SPEC)]
    module.__call__ = tf.function(lambda images: run(images)["features"], input_signature=batch)
    signature = tf.function(run, input_signature=batch)
    tf.saved_model.save(module, str(path), signatures=signature.get_concrete_function())


_Get = Callable[[str], Any]


def _norm_of(epsilon: float) -> Callable[[Any, Layer, _Get], Any]:
    def norm(x: Any, layer: Layer, get: _Get) -> Any:
        gamma, beta, mean, variance = (get(f"{layer.scope}/BatchNorm/{name}") for name in BATCH_NORM)
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, epsilon)

    return norm


def _folded_norm(x: Any, layer: Layer, get: _Get) -> Any:
    return tf.nn.bias_add(x, get(layer.biases_name))


def _outputs(folded: Folded, get: _Get, norm: Callable[[Any, Layer, _Get], Any]) -> Callable[[Any], dict[str, Any]]:
    """Return a function from images to all outputs by name."""
    black, white = folded.range

    def run(images: Any) -> dict[str, Any]:
        x = shortcut = images * (white - black) + black
        for layer in folded.network.layers[:-1]:
            if layer.takes_block_input:
                shortcut = x
            if layer.kind == "depthwise":
                x = tf.nn.depthwise_conv2d(x, get(layer.weights_name), [1, layer.stride, layer.stride, 1], "SAME")
            else:
                x = tf.nn.conv2d(x, get(layer.weights_name), layer.stride, "SAME")
            x = norm(x, layer, get)
            x = tf.nn.relu6(x) if layer.relu6 else x
            x = shortcut + x if layer.residual else x
        found = {"features": tf.reduce_mean(x, [1, 2])}
        if folded.head is not None:
            found["predictions"] = _predictions(folded, found["features"], get)
        elif folded.has_logits:
            logits = folded.network.logits
            kernel = tf.reshape(get(logits.weights_name), logits.weights_shape[2:])
            found["logits"] = tf.matmul(found["features"], kernel) + get(logits.biases_name)
        return found

    return run


def _predictions(folded: Folded, x: Any, get: _Get) -> Any:
    functions = {
        "relu": tf.nn.relu, "relu6": tf.nn.relu6, "sigmoid": tf.sigmoid, "softmax": tf.nn.softmax,
        "unit": lambda y: tf.math.l2_normalize(y, axis=-1),
    }  # fmt: skip
    for number, step in enumerate(folded.head.steps if folded.head else ()):
        if step.kind in functions:
            x = functions[step.kind](x)
            continue
        first, second = (get(f"head/{number}/{name}") for name in TENSORS[step.kind])
        x = (tf.matmul(x, first) if step.kind == "dense" else x * first) + second
    return x
