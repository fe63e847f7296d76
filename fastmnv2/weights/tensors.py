"""Sets of named arrays and their origin: ``Source``, as read from a file, and ``Folded``, as the network runs them."""

import functools
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core import _engine
from fastmnv2.core.arguments import Precision
from fastmnv2.core.errors import WeightsError, printable
from fastmnv2.core.head import Head, softmax
from fastmnv2.core.network import DEFAULT, Network, nearest_multiplier, of

Tensors = dict[str, NDArray[np.float32]]

Allowed = dict[str, tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]]
"""By tensor name: the dtypes (as safetensors names them) and the shapes that the tensor may have."""

INPUT_RANGE = (-1.0, 1.0)
"""The values of black and white at the network's input, in the hub module and in keras.applications."""

RANGE_LIMIT = 1e30
"""The largest value that black or white may become, so that the first convolution's sums fit into float32."""

_NOTES_LIMIT = 20

NO_BACKGROUND = -1e30
"""The background class's logit for files without that class, which gives it the probability 0."""


def range_of(scale: float, shift: float, *, pixels: bool | None = None) -> tuple[float, float] | None:
    """The input range that a file's ``x * scale + shift`` gives; None if it destroys the picture.

    Args:
        scale: the factor.
        shift: the offset.
        pixels: True if ``x`` is in [0,255], False if it is in [0,1], None if the file doesn't record it. With None,
            [0,255] is assumed if the factor is below 1 or the offset is more than 8 times the factor, because such
            numbers make no sense for [0,1]. So 1/127.5 and -1 mean [0,255], and 2 and -1 mean [0,1]. If both numbers
            are 0.5 or both are 127.5, ``x`` is in [-1,1], which they convert to [0,1] or [0,255].
    """
    if pixels is None and scale == shift and scale in (0.5, 127.5):
        return 0.0, 2 * scale
    if pixels is None:
        pixels = abs(scale) < 1 or abs(shift) > 8 * abs(scale)
    black, white = (_rounded(value) for value in (shift, scale * (255 if pixels else 1) + shift))
    return (black, white) if is_range(black, white) else None


def _rounded(value: float) -> float:
    """Round to float32, or to a whole number if that is within float32's error: 255 * (1 / 127.5) becomes 2."""
    if abs(value) < 1e6 and abs(value - round(value)) <= 1e-6 * max(abs(value), 1):
        return float(round(value))
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def is_range(black: float, white: float) -> bool:
    """Whether a network can run on images in this range: the ends differ in float32 and are within RANGE_LIMIT."""
    if not (abs(black) <= RANGE_LIMIT and abs(white) <= RANGE_LIMIT):  # or NaN
        return False
    return bool(np.float32(black) != np.float32(white))


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Convert bfloat16 values, given by their bits, to float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True, eq=False, repr=False)
class Source:
    """Float32 arrays as read from one file or folder, before folding.

    ``tensors`` uses TF-Slim's names and shapes (see ``fastmnv2.core.network.Layer``). A layer comes either with
    ``<scope>/BatchNorm/{gamma,beta,moving_mean,moving_variance}``, or already folded with ``<scope>/biases``.
    """

    form: str  # "hub", "checkpoint", "frozen", "keras", "tflite", "huggingface", "native" or "untrained"
    origin: str  # path, URL or name, as a bug report should show it
    sha256: str  # of the file the tensors were read from
    tensors: Tensors
    notes: tuple[str, ...] = ()  # what was ignored or assumed, one sentence each
    file: str = ""  # absolute path of the native file that holds exactly these tensors, or ""
    input_range: tuple[float, float] | None = None  # values of black and white at the network's input, if known
    input_error: str = ""  # why the layers before the network can't be run, or ""
    head: Head | None = None
    head_error: str = ""  # why the layers after the pooling can't be run, or ""
    size: tuple[int, int] | None = None  # height and width of images, if known
    labels: tuple[str, ...] | None = None  # names of ImageNet's 1001 classes, if the file has them
    multiplier: float | None = None  # channel multiplier, if recorded; else derived from the tensors' shapes
    even_maps: bool = False  # whether it takes images of any size, but pads only even maps as the network does

    def __post_init__(self) -> None:
        notes = self.notes[:_NOTES_LIMIT]
        if len(self.notes) > _NOTES_LIMIT:
            notes += (f"{len(self.notes) - _NOTES_LIMIT} more notes",)
        object.__setattr__(self, "notes", tuple(printable(note) for note in notes))

    @functools.cached_property
    def network(self) -> Network:
        """The member of the family that these weights are for.

        Raises:
            WeightsError: if the image size is unknown, or there is no network for that size.
        """
        multiplier = self.multiplier or nearest_multiplier(_channels(self.tensors))
        size = self.size or (DEFAULT.size if multiplier == DEFAULT.multiplier else None)
        if size is None:
            raise WeightsError(
                f"{self.origin}: the image size of these weights is not recorded; pass it, as in load(..., size=224)"
            )
        try:
            network = of(multiplier, *size)
        except ValueError as error:
            raise WeightsError(
                f"{self.origin}: there is no network for images of {size[0]} x {size[1]}: {error}"
            ) from None
        halved = [layer for layer in network.layers if layer.kind == "depthwise" and layer.stride == 2]
        if self.even_maps and any(layer.in_height % 2 or layer.in_width % 2 for layer in halved):
            raise WeightsError(
                f"{self.origin}: this model takes images of any size, but pads maps of odd height or width differently "
                f"from MobileNet V2; expected a size whose maps are even, such as a multiple of 32, got {size[0]} x "
                f"{size[1]}"
            )
        return network

    @property
    def quantised(self) -> Any:
        """Itself if it is a ``weights.int8.quantised.Quantised``, with integer weights; else None."""
        return None


def _channels(tensors: Tensors) -> list[int | None]:
    """The channel counts that identify the multiplier, as ``nearest_multiplier`` takes them."""
    layers = DEFAULT.layers
    identifying = (layers[0], *layers[2:-2:3], DEFAULT.head)
    kernels = [tensors.get(layer.weights_name) for layer in identifying]
    return [kernel.shape[-1] if kernel is not None and kernel.ndim == 4 else None for kernel in kernels]


@dataclass(frozen=True, eq=False, repr=False)
class Folded(Source):
    """The network as it runs: one kernel and one bias for each layer, float32 and C-contiguous, in network order.

    ``tensors`` has ``Layer.weights_name`` and ``Layer.biases_name`` of every layer in TF-Slim's shapes; the
    logits layer may be missing.
    """

    @classmethod
    def of(cls, source: Source, tensors: Tensors) -> "Folded":
        """A copy of ``source`` with other tensors."""
        values = {field.name: getattr(source, field.name) for field in fields(source)}
        return cls(**values | {"tensors": tensors})

    @property
    def precision(self) -> Precision:
        """The precision that a model of these weights computes in."""
        return "float32"

    def engine(self, isa: str) -> _engine.Engine:
        """The C core's model. ValueError if the core has no kernels for such images."""
        tensors, layers = self.tensors, self.network.layers
        return _engine.Float32Engine(
            isa,
            self.network.handle,
            [tensors.get(layer.weights_name) for layer in layers],
            [tensors.get(layer.biases_name) for layer in layers],
            *self.range,
        )

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.floating]:
        """Softmax of logits, over the last axis."""
        return softmax(logits.astype(np.float64))

    @property
    def has_logits(self) -> bool:
        """Whether the weights include the logits layer."""
        return DEFAULT.logits.weights_name in self.tensors

    @property
    def has_background(self) -> bool:
        """Whether the logits' class 0, background, is a real class; Keras' files leave it out."""
        return not self.has_logits or float(self.tensors[DEFAULT.logits.biases_name][0]) > NO_BACKGROUND

    @property
    def range(self) -> tuple[float, float]:
        """The values of black and white at the network's input."""
        return self.input_range or INPUT_RANGE

    @property
    def around(self) -> dict[str, Any]:
        """Metadata of a native file: head, input range and class names. Empty for most weights."""
        found: dict[str, Any] = {}
        if self.range != INPUT_RANGE:
            found["input_range"] = self.range
        if self.head is not None:
            found["head"] = [{"kind": step.kind, "name": step.name} for step in self.head.steps]
            found["classes"] = self.head.classes
        elif self.labels and self.has_logits:
            found["classes"] = self.labels
        return found

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of everything that the network computes with, in hexadecimal."""
        import hashlib  # here, because OpenSSL takes 5 ms to load

        digest = hashlib.sha256(repr((self.network.name, self.range, self.head and self.head.outline)).encode())
        for name, array in [*self.tensors.items(), *(self.head.tensors.items() if self.head else ())]:
            digest.update(name.encode() + b"\0")
            digest.update(np.ascontiguousarray(array, "<f4").data)
        return digest.hexdigest()

    @functools.cached_property
    def features_digest(self) -> str:
        """SHA-256 of everything that features are computed with: ``digest`` without the logits layer and the head."""
        return replace(self.without_logits(), head=None).digest

    def without_logits(self) -> "Folded":
        """A copy without the logits layer."""
        logits = DEFAULT.logits.folded()
        return replace(self, tensors={name: array for name, array in self.tensors.items() if name not in logits})
