"""The network's layers and endpoints, asked of the C core, where the table stands once."""

from collections.abc import Iterable
from typing import NamedTuple

from fastmnv2.core import _engine

Shapes = dict[str, tuple[int, ...]]
"""Of tensors, by TF-Slim's names."""


class Layer(NamedTuple):
    """One convolution, under its TF-Slim variable scope."""

    scope: str
    kind: str  # "conv", "depthwise" or "pointwise"
    kernel: int
    stride: int
    in_size: int
    out_size: int
    in_channels: int
    out_channels: int
    relu6: bool
    residual: bool

    @property
    def weights_name(self) -> str:
        """TF-Slim's name of the kernel."""
        return f"{self.scope}/{'depthwise_weights' if self.kind == 'depthwise' else 'weights'}"

    @property
    def biases_name(self) -> str:
        """Name of the bias: TF-Slim's own for the logits, ours for a folded batch norm."""
        return f"{self.scope}/biases"

    @property
    def weights_shape(self) -> tuple[int, int, int, int]:
        """TF-Slim's shape: [kh, kw, in, out], depthwise [kh, kw, channels, 1]."""
        if self.kind == "depthwise":
            return (self.kernel, self.kernel, self.in_channels, 1)
        return (self.kernel, self.kernel, self.in_channels, self.out_channels)

    def folded(self) -> Shapes:
        """Names and shapes of its tensors as they run: kernel and bias."""
        return {self.weights_name: self.weights_shape, self.biases_name: (self.out_channels,)}

    def trained(self) -> Shapes:
        """Names and shapes of its tensors as trained: kernel and batch norm, for the logits kernel and bias."""
        if self == LOGITS:
            return self.folded()
        norm = {f"{self.scope}/BatchNorm/{name}": (self.out_channels,) for name in BATCH_NORM}
        return {self.weights_name: self.weights_shape, **norm}


class Endpoint(NamedTuple):
    """One named output of the hub module, ``[n, size, size, channels]``."""

    name: str
    size: int
    channels: int


LAYERS: tuple[Layer, ...] = tuple(Layer(*row) for row in _engine.layers())
"""Every convolution in order; the last one is the optional logits layer."""

LOGITS: Layer = LAYERS[-1]

ENDPOINTS, PROJECTIONS = (tuple(Endpoint(*row) for row in rows) for rows in _engine.endpoints())
"""The module's named outputs in order, 'default' not counted; and each block's last convolution before any residual is
added, which only 8-bit models tell."""

BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
"""TF-Slim's variables under ``<scope>/BatchNorm``, for every layer but the logits."""

EPSILON = 0.001
"""Batch norm's epsilon in TF-Slim and in Keras' MobileNetV2."""

SIZE: int = LAYERS[0].in_size
"""Height and width of an image, in pixels."""

FEATURES: int = LOGITS.in_channels
"""Length of a feature vector."""

CLASSES: int = LOGITS.out_channels
"""ImageNet's, and "background" before them."""


def shapes(layers: Iterable[Layer], *, folded: bool) -> Shapes:
    """Names and shapes of the tensors of layers, in order: the one table that weights are held against."""
    table: Shapes = {}
    for layer in layers:
        table |= layer.folded() if folded else layer.trained()
    return table
