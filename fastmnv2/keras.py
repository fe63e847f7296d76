"""The network as a Keras model, to fine-tune all of it or to train your own head on top.

>>> model = fastmnv2.keras.build("hub_module/", head=5)  # doctest: +SKIP
>>> fastmnv2.keras.freeze(model); model.compile(...); model.fit(...)  # doctest: +SKIP
>>> fastmnv2.load(model).embed(images)  # doctest: +SKIP

Needs ``pip install 'fastmnv2[train]'``. The model is TF-Slim's training graph: batch norms after every convolution with
epsilon 0.001 and moving statistics with a decay of 0.997, and an L2 loss on every kernel that is not depthwise
(``slim/nets/mobilenet/mobilenet.py``, ``training_scope``).
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fastmnv2.core.errors import WeightsError
from fastmnv2.core.network import BATCH_NORM, DEFAULT, Layer, checked_size
from fastmnv2.core.network import Network as Member
from fastmnv2.weights.forms.keras_graph import UNIT_RESCALING

try:
    import keras
except ImportError as _error:
    _message = "training needs Keras and a backend for it: pip install 'fastmnv2[train]'"
    raise ImportError(_message, name="keras") from _error

if TYPE_CHECKING:
    from fastmnv2.weights import Source
    from fastmnv2.weights.tensors import Folded

DECAY = 0.997
"""The decay of the moving statistics in TF-Slim and in the hub module. keras.applications uses 0.999."""

WEIGHT_DECAY = 4e-5
"""TF-Slim's weight decay: each regularised kernel adds ``WEIGHT_DECAY * sum(kernel ** 2) / 2`` to the loss."""

_UNIT = 1 / 255


@keras.saving.register_keras_serializable("fastmnv2")
class BatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """Keras' batch norm with TF-Slim's moving variance, which estimates the population's variance.

    TensorFlow's ``fused_batch_norm`` updates the moving variance with the batch's variance times n / (n - 1), where n
    is the number of values of a channel in the batch. Keras' own layer omits that factor, which is 1.014 for the last
    3x3 maps of a batch of 8.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise ``inputs``; see ``keras.layers.BatchNormalization``."""
        old_part = self.moving_variance * self.momentum
        outputs = super().call(inputs, training=training, mask=mask)
        if training and self.trainable:
            shape = keras.ops.shape(inputs)
            count = keras.ops.cast(shape[0] * shape[1] * shape[2], old_part.dtype)
            new_part = self.moving_variance - old_part
            self.moving_variance.assign(self.moving_variance + new_part / keras.ops.maximum(count - 1, 1))
        return outputs


@keras.saving.register_keras_serializable("fastmnv2")
class Network(keras.Model):  # type: ignore[misc]
    """A functional Keras model that takes the hub module's input: floats in [0,1], or uint8."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Run the model; uint8 ``inputs`` are scaled as ``tf.image.convert_image_dtype`` does."""
        if keras.backend.standardize_dtype(inputs.dtype) == "uint8":
            inputs = keras.ops.cast(inputs, "float32") * _UNIT
        return super().call(inputs, training=training, mask=mask)


def build(
    weights: "str | os.PathLike[str] | Source | None" = None,
    *,
    head: "int | keras.Layer | Sequence[keras.Layer] | Callable[[Any], Any] | None" = None,
    dropout: float = 0.2,
    decay: float = DECAY,
    weight_decay: float = WEIGHT_DECAY,
    size: int | tuple[int, int] | None = None,
) -> Network:
    """A Keras model of the network, trainable, with the batch norms of ``weights``.

    Args:
        weights: as for ``fastmnv2.load``. Hub modules, checkpoints and Keras files keep their batch norms. Folded
            weights (TFLite files, native files and cached downloads) get norms that change nothing at inference:
            gamma 1, beta the layer's bias, mean 0, variance 0.999. In training mode such a norm still normalises with
            the batch's statistics, which the weights were not trained with, so features jump at the first step. To
            avoid that, ``calibrate`` the model first, or keep the norms frozen (``unfreeze(..., norms=False)``).
        head: the layers after the pooling: None for the plain features; a number of classes for a Dense layer with
            softmax called "head"; a Keras layer; a sequence of layers; or a function of the features.
        dropout: the share of the features that training drops before the head, slim's 0.2 by default; 0 for none.
            Without a head there is no dropout.
        decay: the decay of the moving statistics; see ``DECAY``. The default remembers about 300 steps. For a shorter
            training use about 0.9 or frozen norms; otherwise the statistics lag behind the weights.
        weight_decay: see ``WEIGHT_DECAY``; 0 for no regularisation losses.
        size: height and width of the images, as for ``fastmnv2.load``. It is required for weights that don't record
            it, and overrides it for others, for example to train a 224 network on images of 160.

    Returns:
        A model of float32 ``[n,height,width,3]`` in [0,1], or uint8 -> float32 ``[n,features]``, or the head's output.
        With ``training=True`` it computes the same as the hub module's {"train"} graph.

    Raises:
        FileNotFoundError, WeightsError, WeightsUnavailable: as ``fastmnv2.load``.
        TypeError, ValueError: if ``head``, ``dropout`` or ``size`` are not as above.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected a number from 0 to below 1, got {dropout!r}")
    source = _source(weights, size)
    inputs = keras.Input(source.network.image_shape, name="images")
    features = _Builder(source.network, decay, weight_decay)(inputs)
    outputs = _with_head(features, head, dropout)
    model = Network(inputs, outputs, name=_name(source.network))
    set_variables(model, source.tensors)
    return model


def freeze(model: keras.Model) -> None:
    """Freeze the network, so that only the head is trained. Compile the model afterwards.

    As always in Keras, frozen batch norms use their moving statistics in training mode too.

    Raises:
        WeightsError: if the model does not contain the network.
    """
    for layer, _ in _network_layers(model):
        layer.trainable = False


def unfreeze(model: keras.Model, top: int | None = None, *, norms: bool = True) -> None:
    """Make the network's last ``top`` layers, or all, trainable. Compile the model afterwards, with a low rate.

    Args:
        model: from ``build``, or another Keras model that contains the network.
        top: the number of layers, counted backwards from the pooling; convolutions and batch norms count separately.
            None for all. Layers before them are frozen.
        norms: whether batch norms among them are trained and use the batch's statistics. keras.io's guide to transfer
            learning leaves them frozen, which is right for small batches.

    Raises:
        ValueError: if ``top`` is negative or more than the number of layers.
        WeightsError: if the model does not contain the network.
    """
    layers = _network_layers(model)
    count = len(layers) if top is None else top
    if not 0 <= count <= len(layers):
        raise ValueError(f"top: expected 0 to {len(layers)}, which is all, got {top!r}")
    for index, (layer, _) in enumerate(layers):
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = index >= len(layers) - count and (norms or not is_norm)


def calibrate(model: keras.Model, images: Any, *, batch_size: int = 16) -> None:
    """Set the batch norms' statistics to those of ``images``, without changing the model's output at inference.

    This is for folded weights, whose norms have no statistics of real data. Each norm's moving mean and variance are
    set to those of its inputs. gamma and beta are set so that ``gamma * (x - mean) / sqrt(variance + epsilon) + beta``
    does not change. After that, training mode gives nearly the same output as inference on batches like ``images``.

    Args:
        model: from ``build``, or another Keras model that contains the network as its own layers.
        images: an array as for the model; a few dozen images that resemble the training images.
        batch_size: images at a time. The norms' inputs take 5 MB per image at 0.75/96 and 27 MB at 1.0/224.

    Raises:
        WeightsError: if the model does not contain the network.
    """
    import numpy as np

    norms = [layer for layer, _ in _network_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
    probe = Network(model.inputs, [norm.input for norm in norms])
    sums = [np.zeros((2, norm.gamma.shape[0])) for norm in norms]
    counts = [0] * len(norms)
    for start in range(0, len(images), batch_size):
        for index, found in enumerate(probe(images[start : start + batch_size], training=False)):
            values = np.asarray(found, np.float64).reshape(-1, sums[index].shape[1])
            sums[index] += values.sum(0), (values * values).sum(0)
            counts[index] += len(values)
    for norm, (total, squares), count in zip(norms, sums, counts, strict=True):
        gamma, beta, mean, variance = (values.astype(np.float64) for values in norm.get_weights())
        new_mean = total / count
        new_variance = np.maximum(squares / count - new_mean**2, 0)
        scale = gamma / np.sqrt(variance + norm.epsilon)
        new_gamma = scale * np.sqrt(new_variance + norm.epsilon)
        norm.set_weights([new_gamma, beta + scale * (new_mean - mean), new_mean, new_variance])


def set_variables(model: keras.Model, tensors: dict[str, Any]) -> None:
    """Set the network's variables from tensors by TF-Slim's names. Folded layers get norms that change nothing."""
    import numpy as np

    for layer, of in _network_layers(model):
        if not isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([tensors[of.weights_name]])
            continue
        norm = [tensors.get(f"{of.scope}/BatchNorm/{name}") for name in BATCH_NORM]
        if norm[0] is None:
            # 0.999 + epsilon is exactly 1 in float32 too.
            ones, zeros = np.ones_like(tensors[of.biases_name]), np.zeros_like(tensors[of.biases_name])
            norm = [ones, tensors[of.biases_name], zeros, ones * np.float32(1 - layer.epsilon)]
        layer.set_weights(norm)


def plain(source: "Source", folded: "Folded", head: Sequence[tuple[Any, list[Any]]]) -> keras.Model:
    """The network in Keras' own layers, for files. ``head`` holds the layers after the pooling, and their variables.

    The model takes images in [0,1] for weights with any input range.
    """
    inputs = keras.Input(folded.network.image_shape, name="images")
    x = _Builder(folded.network, DECAY, 0, keras.layers.BatchNormalization)(inputs, *folded.range)
    for layer, _ in head:
        x = layer(x)
    model = keras.Model(inputs, x, name=_name(folded.network))
    set_variables(model, source.tensors)
    for layer, variables in head:
        layer.set_weights(variables)
    return model


def _name(network: Member) -> str:
    """The model's name in the style of keras.applications: "mobilenetv2_0_75_96"."""
    size = str(network.height) if network.height == network.width else f"{network.height}x{network.width}"
    return f"mobilenetv2_{network.multiplier:.2f}_{size}".replace(".", "_")


def names_of(layer: Layer) -> tuple[str, str]:
    """keras.applications' names of a layer and of its batch norm."""
    scope = layer.scope.removeprefix("MobilenetV2/")
    if scope == "Conv":
        return "Conv1", "bn_Conv1"
    if scope == "Conv_1":
        return "Conv_1", "Conv_1_bn"
    block, part = scope.split("/")
    number = block.removeprefix("expanded_conv").removeprefix("_")
    plain = f"block_{number}_{part}" if number else f"expanded_conv_{part}"
    return plain, f"{plain}_BN"


class _Builder:
    """Builds the layers under keras.applications' names, so that the model's files are ordinary Keras files."""

    def __init__(self, network: Member, decay: float, weight_decay: float, norm: Any = None) -> None:
        self._network, self._decay, self._norm = network, decay, norm or BatchNormalization
        # Keras' L2 has no factor 1/2.
        self._regularizer = keras.regularizers.L2(weight_decay / 2) if weight_decay else None

    def __call__(self, inputs: Any, black: float = -1.0, white: float = 1.0) -> Any:
        x = shortcut = keras.layers.Rescaling(white - black, offset=black, name=UNIT_RESCALING)(inputs)
        for layer in self._network.layers[:-1]:
            if layer.takes_block_input:
                shortcut = x
            x = self._layer(x, layer)
            if layer.residual:
                x = keras.layers.Add(name=names_of(layer)[0].replace("project", "add"))([shortcut, x])
        return keras.layers.GlobalAveragePooling2D(name="global_average_pooling2d")(x)

    def _layer(self, x: Any, layer: Layer) -> Any:
        name, norm_name = names_of(layer)
        shared = {"strides": layer.stride, "padding": "same", "use_bias": False, "name": name}
        if layer.kind == "depthwise":
            x = keras.layers.DepthwiseConv2D(layer.kernel, **shared)(x)
        else:
            x = keras.layers.Conv2D(layer.out_channels, layer.kernel, kernel_regularizer=self._regularizer, **shared)(x)
        x = self._norm(momentum=self._decay, epsilon=self._network.epsilon, name=norm_name)(x)
        if not layer.relu6:
            return x
        last = layer is self._network.head
        return keras.layers.ReLU(6.0, name="out_relu" if last else f"{name}_relu")(x)


def _with_head(features: Any, head: Any, dropout: float) -> Any:
    if head is None:
        return features
    x = keras.layers.Dropout(dropout, name="dropout")(features) if dropout else features
    if isinstance(head, int):
        if head < 1:
            raise ValueError(f"head: expected at least one class, got {head}")
        return keras.layers.Dense(head, activation="softmax", name="head")(x)
    if isinstance(head, Sequence):
        for layer in head:
            x = layer(x)
        return x
    if not callable(head):
        raise TypeError(f"head: expected a number of classes, Keras layers or a function, got {type(head).__name__}")
    return head(x)


def _network_layers(model: keras.Model) -> list[tuple[keras.Layer, Layer]]:
    """The network's convolutions and batch norms in order, at any depth of nesting."""
    by_name = {name: layer for layer in DEFAULT.layers[:-1] for name in names_of(layer)}
    found = {layer.name: layer for layer in _all_layers(model) if layer.name in by_name}
    if len(found) != len(by_name):
        missing = next(name for name in by_name if name not in found)
        raise WeightsError(f"{model.name}: expected MobileNetV2 with its 104 layers, but there is no {missing}")
    return [(found[name], layer) for name, layer in by_name.items()]


def _all_layers(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _all_layers(layer)


def _source(weights: Any, size: int | tuple[int, int] | None) -> "Source":
    from fastmnv2.weights import Source
    from fastmnv2.weights.fold import fold
    from fastmnv2.weights.resolve import resolve_source
    from fastmnv2.weights.tensors import INPUT_RANGE

    source = weights if isinstance(weights, Source) else resolve_source(weights)
    if size is not None:
        source = dataclasses.replace(source, size=checked_size(size))
    fold(dataclasses.replace(source, head_error=""))  # only for its checks of the weights
    if source.input_range not in (None, INPUT_RANGE):
        raise WeightsError(
            f"{source.origin}: expected a network of images in [-1,1], got one of {list(source.input_range or ())}"
        )
    return source
