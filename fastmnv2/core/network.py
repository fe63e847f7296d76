"""The family of networks: each member's layers and endpoints, taken from the C core, which has the only table."""

import functools
import numbers
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from fastmnv2.core import _engine

Shapes = dict[str, tuple[int, ...]]
"""Shapes of tensors by TF-Slim's names."""

BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
"""TF-Slim's variables under ``<scope>/BatchNorm``, for every layer except the logits."""

MULTIPLIERS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
"""The multipliers of published trained weights. Every other multiplier from 0.25 to 2 is valid too."""


class Layer(NamedTuple):
    """One convolution, under its TF-Slim variable scope."""

    scope: str
    kind: str  # "conv", "depthwise" or "pointwise"
    kernel: int
    stride: int
    in_height: int
    in_width: int
    out_height: int
    out_width: int
    pad_top: int  # rows of zeros above the map; as many follow below as the last window reads
    pad_left: int  # the same for columns
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
        """Name of the bias: TF-Slim's for the logits, this package's for a folded batch norm."""
        return f"{self.scope}/biases"

    @property
    def weights_shape(self) -> tuple[int, int, int, int]:
        """TF-Slim's shape: [kh, kw, in, out], depthwise [kh, kw, channels, 1]."""
        if self.kind == "depthwise":
            return (self.kernel, self.kernel, self.in_channels, 1)
        return (self.kernel, self.kernel, self.in_channels, self.out_channels)

    @property
    def is_logits(self) -> bool:
        """Whether it is the classification layer, the only one with its own bias and no batch norm."""
        return self.scope.startswith("MobilenetV2/Logits/")

    @property
    def takes_block_input(self) -> bool:
        """Whether it is its block's first layer, whose input a residual adds. The first block has no expansion."""
        return self.scope.endswith("/expand") or self.scope == "MobilenetV2/expanded_conv/depthwise"

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """SAME padding: zeros above and below a map, and left and right of it."""
        edges = ((self.in_height, self.out_height, self.pad_top), (self.in_width, self.out_width, self.pad_left))
        above, left = (
            (before, max((outputs - 1) * self.stride + self.kernel - inputs - before, 0))
            for inputs, outputs, before in edges
        )
        return above, left

    @property
    def macs(self) -> int:
        """Multiply-adds for one image, including taps in the padding."""
        kernel_height, kernel_width, inputs, outputs = self.weights_shape
        return self.out_height * self.out_width * kernel_height * kernel_width * inputs * outputs

    def folded(self) -> Shapes:
        """Names and shapes of its folded tensors: kernel and bias."""
        return {self.weights_name: self.weights_shape, self.biases_name: (self.out_channels,)}

    def trained(self) -> Shapes:
        """Names and shapes of its tensors as trained: kernel and batch norm, or kernel and bias for the logits."""
        if self.is_logits:
            return self.folded()
        norm = {f"{self.scope}/BatchNorm/{name}": (self.out_channels,) for name in BATCH_NORM}
        return {self.weights_name: self.weights_shape, **norm}


class Endpoint(NamedTuple):
    """One named output of the hub module, ``[n, height, width, channels]``."""

    name: str
    height: int
    width: int
    channels: int


class Network:
    """One member of the family: MobileNet V2 with a multiplier, for images of a height and width. ``of`` makes them.

    Immutable, and equal to any other with the same multiplier and size. Names, kinds and order of layers and endpoints
    are the same for every member.

    Attributes:
        multiplier: the channel multiplier; 1.0 is the paper's network.
        height, width: the image size in pixels.
        features: the length of a feature vector.
        classes: the number of logits: "background", then ImageNet's classes.
        layers: every convolution in order; the last one is the optional logits layer.
        endpoints: the hub module's named outputs in order, without 'default'.
        projections: each block's projection before the residual is added; only int8 models provide these outputs.
        epsilon: the batch norms' epsilon, in TF-Slim and in Keras' MobileNetV2.
        handle: the C core's object for this network.
    """

    epsilon: float = 0.001

    def __init__(self, multiplier: float, height: int, width: int) -> None:
        self.handle = _engine.Network(multiplier, height, width)
        self.multiplier, self.height, self.width = float(multiplier), height, width
        self.features: int = self.handle.features
        self.classes: int = self.handle.classes
        self.layers: tuple[Layer, ...] = tuple(Layer(*row) for row in self.handle.layers())
        named = self.handle.endpoints()
        self.endpoints, self.projections = (tuple(Endpoint(*row) for row in rows) for rows in named)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Network(multiplier={self.multiplier}, height={self.height}, width={self.width})"

    @property
    def _key(self) -> tuple[float, int, int]:
        return self.multiplier, self.height, self.width

    def __reduce__(self) -> tuple[Any, ...]:
        return of, self._key

    def __copy__(self) -> "Network":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Network":
        return self

    @functools.cached_property
    def name(self) -> str:
        """TF-Hub's name, such as "mobilenet_v2_075_96"; ends with "96x128" if height and width differ."""
        hundredths = f"{self.multiplier:.2f}" if round(self.multiplier, 2) == self.multiplier else f"{self.multiplier}"
        size = f"{self.height}" if self.height == self.width else f"{self.height}x{self.width}"
        return f"mobilenet_v2_{hundredths.replace('.', '')}_{size}"

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        return self.height, self.width

    @functools.cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of one image: height, width, RGB."""
        return self.height, self.width, self.layers[0].in_channels

    @property
    def head(self) -> Layer:
        """The last convolution before the pooling."""
        return self.layers[-2]

    @property
    def logits(self) -> Layer:
        """The classification layer."""
        return self.layers[-1]

    @property
    def blocks(self) -> int:
        """The number of inverted residual blocks. Block i's layers begin at index 3 i, its endpoints at 4 i."""
        return len(self.projections)

    @functools.cached_property
    def macs(self) -> int:
        """Multiply-adds for one image, including taps in the padding, without the logits."""
        return sum(layer.macs for layer in self.layers[:-1])

    def has_residual(self, block: int) -> bool:
        """Whether a block adds its input to its output."""
        return self.layers[3 * block + 2].residual


@functools.lru_cache(maxsize=256)
def of(multiplier: float, height: int, width: int) -> Network:
    """The member of the family for a multiplier and an image height and width in pixels.

    Raises:
        ValueError: if the multiplier is not from 0.25 to 2, or a size is not from 32 to 512.
    """
    return Network(multiplier, height, width)


DEFAULT = of(0.75, 96, 96)
"""The network of the "imagenet" weights, 0.75/96. It also stands for any member where only the names of layers, or
other properties that all members share, are needed."""

WIDEST = 2.0
"""The largest multiplier; it bounds the size of a file."""


def checked_size(size: Any) -> tuple[int, int]:
    """``size`` as (height, width); one int means both.

    Raises:
        TypeError: if it is not an int or a pair of ints.
        ValueError: if there is no network for this size.
    """
    pair = (size, size) if isinstance(size, numbers.Integral) else size
    try:
        height, width = (int(edge) if isinstance(edge, numbers.Integral) else None for edge in pair)
    except (TypeError, ValueError):
        height = width = None
    if height is None or width is None:
        raise TypeError(f"size: expected an int or (height, width), in pixels, got {size!r}")
    try:
        of(1.0, height, width)
    except ValueError as error:
        raise ValueError(f"size: there is no network for images of {height} x {width}: {error}") from None
    return height, width


def nearest_multiplier(channels: Sequence[int | None]) -> float:
    """The multiplier that gives these channel counts (None if unknown), in the order of ``_engine.Network.channels``.

    If no multiplier gives all of them, the result is the one that gives the most. The caller reports the differences.
    """
    best, most = 1.0, -1
    for multiplier in _multipliers():
        own = _engine.Network(multiplier, 32, 32).channels
        same = sum(a == b for a, b in zip(own, channels, strict=True))
        if same > most:
            best, most = multiplier, same
        if most == len(channels) - list(channels).count(None):
            break
    return best


def _multipliers() -> Iterator[float]:
    """Published multipliers, then round ones, then all in steps of 1/800, which include every network."""
    yield from MULTIPLIERS
    for parts in (10, 20, 100, 800):
        yield from (step / parts for step in range(-(-parts // 4), 2 * parts + 1))


def shapes(layers: Iterable[Layer], *, folded: bool) -> Shapes:
    """Names and shapes of the layers' tensors, in order. Weights are checked against this table."""
    table: Shapes = {}
    for layer in layers:
        table |= layer.folded() if folded else layer.trained()
    return table
