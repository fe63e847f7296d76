"""8-bit networks: integer weights with their scales and zero points, checked and prepared for the C core.

The arithmetic is that of LiteRT's default engine on x86-64 (XNNPACK), all in float32 and in this order:
``multiplier = (input_scale * weight_scale) / output_scale``,
``q = clamp(rint(float32(sum) * multiplier) + zero_point)``.
"""

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core import _engine
from fastmnv2.core.arguments import Precision
from fastmnv2.core.errors import WeightsError
from fastmnv2.core.network import DEFAULT, Layer, Network
from fastmnv2.weights.tensors import INPUT_RANGE, Allowed, Folded

_MOST_MULTIPLIER = 256.0  # for a convolution or average; XNNPACK refuses larger ones too
_SUM_RATIOS = (2.0**-10, 2.0**8)  # the limits, also XNNPACK's, for the ratio of a residual addition's scales
_INT32 = 2**31 - 1


class Quantity(NamedTuple):
    """A tensor's quantisation: integers in ``[low, high]`` stand for ``(q - zero_point) * scale``."""

    scale: np.float32
    zero_point: int
    low: int
    high: int


def quantity_names(scope: str) -> tuple[str, str]:
    """Names of the tensors of an output's Quantity: scale, float32 [1]; zero point, lowest and highest, int32 [3]."""
    return f"{scope}/output_scale", f"{scope}/output_range"


def sum_scope(block: int) -> str:
    """The scope of the Quantity of a block's residual addition."""
    return f"{DEFAULT.layers[3 * block + 2].scope.rpartition('/')[0]}/sum"


def weights_names(layer: Layer) -> tuple[str, str, str, str]:
    """Names of a layer's tensors: kernel, bias (int32), scales of the kernel (float32 [1] or [out]), zero point [1]."""
    return (layer.weights_name, layer.biases_name, f"{layer.scope}/weights_scales", f"{layer.scope}/weights_zero_point")


IMAGE, POOL, SOFTMAX = "image", "MobilenetV2/global_pool", "MobilenetV2/Predictions"


def allowed_shapes(network: Network) -> Allowed:
    """Dtypes and shapes that the tensors of an 8-bit network may have; ``Quantised`` checks that they fit together."""
    allowed: Allowed = {}
    for layer in network.layers:
        kernel, bias, scales, zero = weights_names(layer)
        allowed[kernel] = (("U8", "I8"), (layer.weights_shape,))
        allowed[bias] = (("I32",), ((layer.out_channels,),))
        allowed[scales] = (("F32",), ((1,), (layer.out_channels,)))
        allowed[zero] = (("I32",), ((1,),))
    scopes = [layer.scope for layer in network.layers]
    for scope in (IMAGE, POOL, SOFTMAX, *scopes, *map(sum_scope, range(network.blocks))):
        scale, numbers = quantity_names(scope)
        allowed[scale], allowed[numbers] = (("F32",), ((1,),)), (("I32",), ((3,),))
    return allowed


_USUAL_RANGES = (INPUT_RANGE, (0.0, 1.0), (0.0, 255.0))


def image_quantity(black: float, white: float) -> tuple[np.float32, int]:
    """Scale and zero point of an int8 image whose pixels stand for numbers from ``black`` to ``white``.

    Raises:
        ValueError: if the range does not include 0, which convolutions pad with.
    """
    if not black <= 0 <= white:
        raise ValueError(
            f"input_range: expected a range that includes 0 for an 8-bit network, such as (-1, 1) or (0, 1); "
            f"got {black:g} to {white:g}"
        )
    scale = np.float32((white - black) / 255)
    # The exact zero point of (-1, 1) is -0.5. Converters use -1, and so does this function.
    return scale, int(np.clip(np.floor(-128 - black / float(scale)), -128, 127))


@dataclass(frozen=True, eq=False, repr=False)
class Quantised(Folded):
    """The network in 8-bit integers, as stored in its file.

    ``tensors`` has, in TF-Slim's shapes, uint8 or int8 kernels and int32 biases. It also has the tensors of
    ``weights_names`` for the layers, and those of ``quantity_names`` for the outputs of the layers, the residual
    additions, the image, the average and any softmax.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tensors:  # weights from a native file are pickled without tensors
            _Check(self).all()
            object.__setattr__(self, "input_range", self._images_range())

    def _images_range(self) -> tuple[float, float] | None:
        """The input range that is set, or the one that the image's quantisation defines; None for [-1,1]."""
        fitting = [edges for edges in (self.range, *_USUAL_RANGES) if self.fits(edges)]
        return None if not fitting or fitting[0] == INPUT_RANGE else fitting[0]

    def fits(self, edges: tuple[float, float]) -> bool:
        """Whether the image's scale (within half a percent) and zero point (within about one step) fit this range."""
        image = self.quantity(IMAGE)
        steps = (edges[1] - edges[0]) / float(image.scale)
        zero = -edges[0] / float(image.scale) + self.lowest
        return abs(steps / 255 - 1) <= 0.005 and abs(zero - image.zero_point) <= 1.2

    @property
    def precision(self) -> Precision:
        """The precision that a model of these weights computes in."""
        return "int8"

    @property
    def quantised(self) -> "Quantised":
        """The object itself."""
        return self

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or int8."""
        return np.dtype(np.int8 if self.tensors[DEFAULT.layers[0].weights_name].dtype == np.int8 else np.uint8)

    @property
    def lowest(self) -> int:
        """The smallest integer of an activation: 0 or -128."""
        return int(np.iinfo(self.dtype).min)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the tensors' names and values, in hexadecimal."""
        import hashlib

        digest = hashlib.sha256(repr(self.head and self.head.outline).encode())
        for name, array in [*self.tensors.items(), *(self.head.tensors.items() if self.head else ())]:
            digest.update(f"{name}\0{array.dtype.str}\0".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def without_logits(self) -> "Quantised":
        """A copy without the logits layer."""
        logits = self.network.logits
        dropped = {*weights_names(logits), *quantity_names(logits.scope), *quantity_names(SOFTMAX)}
        return replace(self, tensors={name: array for name, array in self.tensors.items() if name not in dropped})

    def quantity(self, scope: str) -> Quantity:
        """The quantisation of the output of a layer, a sum, the image or the average."""
        found = self._quantities.get(scope)
        if found is None:
            scale, numbers = quantity_names(scope)
            found = Quantity(self.tensors[scale][0], *self.tensors[numbers].tolist())
            self._quantities[scope] = found
        return found

    @functools.cached_property
    def _quantities(self) -> dict[str, Quantity]:
        return {}

    def has(self, scope: str) -> bool:
        """Whether the network has an output with this scope."""
        return quantity_names(scope)[0] in self.tensors

    def input_of(self, index: int) -> Quantity:
        """The quantisation of the input of layer ``index``."""
        if index == 0:
            return self.quantity(IMAGE)
        if self.network.layers[index].is_logits:
            return self.quantity(POOL)
        before = self.network.layers[index - 1]
        return self.quantity(sum_scope((index - 1) // 3) if before.residual else before.scope)

    def block_input(self, block: int) -> Quantity:
        """The quantisation of a block's input; the first block has no expansion."""
        return self.input_of(max(3 * block, 1))

    def multipliers(self, index: int) -> NDArray[np.float32]:
        """The multipliers for the sums of layer ``index``, float32 [out]."""
        layer = self.network.layers[index]
        scales = self.tensors[weights_names(layer)[2]].astype(np.float32)
        with np.errstate(all="ignore"):
            found = (self.input_of(index).scale * scales) / self.quantity(layer.scope).scale
        return np.ascontiguousarray(np.broadcast_to(found.astype(np.float32), (layer.out_channels,)))

    def integers(self, unsigned: NDArray[np.uint8]) -> NDArray[Any]:
        """Convert the core's bytes to the file's own integers."""
        return unsigned if self.lowest == 0 else (unsigned ^ np.uint8(128)).view(np.int8)

    def numbers(self, unsigned: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
        """Convert the core's bytes of a named output to real numbers."""
        return self._table(self.endpoint(name))[unsigned]

    def endpoint(self, name: str) -> Quantity:
        """The quantisation of a named output, the image or a layer's output."""
        if name == "default":
            return self.quantity(POOL)
        if self.has(name):
            return self.quantity(name)
        network = self.network
        projections = [endpoint.name for endpoint in network.projections]
        if name in projections:
            return self.quantity(network.layers[3 * projections.index(name) + 2].scope)
        block, part = divmod([endpoint.name for endpoint in network.endpoints].index(name), 4)
        layer = network.layers[3 * block + min(part, 2)]
        return self.quantity(sum_scope(block) if layer.residual else layer.scope)

    def engine(self, isa: str) -> _engine.Int8Engine:
        """The C core's model. ValueError if the core has no kernels for such images."""
        network = self.network
        layers = [self._layer(index) for index in range(len(network.layers) - (not self.has_logits))]
        sums = [self._sum(block) if network.has_residual(block) else None for block in range(network.blocks)]
        logit = self._table(self.quantity(network.logits.scope)) if self.has_logits else None
        feature = self._table(self.quantity(POOL))
        return _engine.Int8Engine(isa, network.handle, layers, sums, self.averages(), feature, logit)

    def _table(self, quantity: Quantity) -> NDArray[np.float32]:
        """The real number for each of the core's bytes: float32 [256]."""
        integers = np.arange(256) + self.lowest
        return ((integers - quantity.zero_point).astype(np.float32) * quantity.scale).astype(np.float32)

    def _unsigned(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        """Convert to the core's bytes: int8 is shifted by 128."""
        found = np.ascontiguousarray(array).view(np.uint8)
        return found if self.lowest == 0 else found ^ np.uint8(128)

    def _layer(self, index: int) -> tuple[Any, ...]:
        layer = self.network.layers[index]
        kernel, bias, _, zero = (self.tensors[name] for name in weights_names(layer))
        output, to_byte = self.quantity(layer.scope), -self.lowest
        return (
            self._unsigned(kernel),
            np.ascontiguousarray(bias, np.int32),
            self.multipliers(index),
            (
                int(zero[0]) + to_byte,
                self.input_of(index).zero_point + to_byte,
                output.zero_point + to_byte,
                output.low + to_byte,
                output.high + to_byte,
            ),
        )

    def _sum(self, block: int) -> tuple[int, ...]:
        """Both multipliers of the addition, with at least 20 bits, and the right shift of their sum."""
        a, b = self.quantity(self.network.layers[3 * block + 2].scope), self.block_input(block)
        output, to_byte = self.quantity(sum_scope(block)), -self.lowest
        ratios = (np.float32(a.scale / output.scale), np.float32(b.scale / output.scale))
        shift = 20 - (math.frexp(max(ratios))[1] - 1)
        multipliers = (int(np.rint(np.ldexp(np.float64(ratio), shift))) for ratio in ratios)
        zeros = (a.zero_point + to_byte, b.zero_point + to_byte, output.zero_point + to_byte)
        return (*multipliers, shift, *zeros, output.low + to_byte, output.high + to_byte)

    def averages(self) -> NDArray[np.uint8]:
        """A lookup table: the average for each possible sum of a channel's bytes over the last map."""
        head = self.network.head
        pixels, before, after = head.out_height * head.out_width, self.quantity(head.scope), self.quantity(POOL)
        sums = np.arange(255 * pixels + 1)
        if self.lowest == 0:  # AVERAGE_POOL_2D, in integers
            return np.asarray(((sums + pixels // 2) // pixels).clip(after.low, after.high), np.uint8)
        to_byte = -self.lowest  # MEAN
        # In LiteRT's order of float32 operations, which decides how averages close to a half are rounded.
        multiplier = np.float32(before.scale / after.scale) * (np.float32(1) / np.float32(pixels))
        offset = np.float32(after.zero_point) - np.float32(pixels * before.zero_point) * multiplier
        found = np.rint((sums - pixels * to_byte).astype(np.float32) * multiplier + offset)
        return np.asarray(found.clip(after.low, after.high) + to_byte, np.uint8)

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.floating]:
        """The file's own softmax of logits, if it has one in uint8: multiples of 1/256.

        A table of ``exp(-scale * difference)`` in float32, summed in order in float32, as LiteRT does.
        """
        if not self.has(SOFTMAX):
            return super().probabilities(logits)
        scale = self.quantity(self.network.logits.scope).scale
        unknown = np.isnan(logits)
        logits = np.where(unknown, np.float32(0), logits)
        steps = np.rint((logits.max(axis=-1, keepdims=True) - logits) / scale).astype(np.int64)
        table = np.exp((-(scale * np.arange(256, dtype=np.float32))).astype(np.float64)).astype(np.float32)
        powers = table[steps.clip(0, 255)]
        totals = np.cumsum(powers, axis=-1, dtype=np.float32)[..., -1:]  # cumsum adds in order
        shares = powers * (np.float32(1) / (totals * np.float32(1 / 256)))
        found = np.minimum(np.floor(shares.astype(np.float64) + 0.5), 255) / 256
        return np.where(unknown, np.nan, found)

    def dequantised(self) -> Folded:
        """The same network in float32: ``(q - zero_point) * scale`` in float64, rounded once."""
        tensors = {}
        for index, layer in enumerate(self.network.layers[: None if self.has_logits else -1]):
            kernel, bias, scales, zero = (self.tensors[name] for name in weights_names(layer))
            wide = scales.astype(np.float64)
            own = wide.reshape(-1, 1) if layer.kind == "depthwise" and wide.size > 1 else wide
            tensors[layer.weights_name] = ((kernel.astype(np.float64) - zero[0]) * own).astype(np.float32)
            bias_scale = (self.input_of(index).scale * scales.astype(np.float32)).astype(np.float64)
            tensors[layer.biases_name] = (bias * bias_scale).astype(np.float32)
        return Folded.of(self, tensors)


class _Check:
    """Checks everything that a hostile file could contain. Each failure is a WeightsError."""

    def __init__(self, weights: Quantised) -> None:
        self._own, self._network, self._tensors = weights, weights.network, weights.tensors

    def all(self) -> None:
        own, network = self._own, self._network
        layers = network.layers if own.has_logits else network.layers[:-1]
        for layer in layers:
            self._weights(layer)
        added = [block for block in range(network.blocks) if network.has_residual(block)]
        softmax = [SOFTMAX] if own.has_logits and own.has(SOFTMAX) else []
        for scope in (IMAGE, POOL, *(layer.scope for layer in layers), *map(sum_scope, added), *softmax):
            self._quantity(scope)
        self._image()
        for index in range(len(layers)):
            self._multipliers(index)
        self._averages()
        for block in added:
            self._sum(block)

    def _error(self, text: str) -> WeightsError:
        return WeightsError(f"{self._own.origin}: {text}")

    def _need(self, name: str, dtypes: tuple[Any, ...], shapes: tuple[tuple[int, ...], ...]) -> NDArray[Any]:
        found = self._tensors.get(name)
        if found is None:
            raise self._error(f"{name} is missing")
        if found.dtype not in dtypes or found.shape not in shapes:
            expected = " or ".join(f"{np.dtype(dtypes[0]).name} {list(shape)}" for shape in shapes)
            raise self._error(f"{name}: expected {expected}, got {found.dtype.name} {list(found.shape)}")
        return found

    def _scales(self, name: str, scales: NDArray[np.float32]) -> None:
        good = np.isfinite(scales) & (scales >= np.finfo(np.float32).tiny)
        if not good.all():
            wrong = scales[~good].flat[0]
            raise self._error(f"{name}: expected scales that are positive, finite and not denormal, got {wrong}")

    def _weights(self, layer: Layer) -> None:
        kernel, bias, scales, zero = weights_names(layer)
        dtype = self._own.dtype
        self._need(kernel, (dtype,), (layer.weights_shape,))
        self._need(bias, (np.int32,), ((layer.out_channels,),))
        counts = ((1,), (layer.out_channels,)) if dtype == np.int8 else ((1,),)
        self._scales(scales, self._need(scales, (np.float32,), counts))
        point, most = int(self._need(zero, (np.int32,), ((1,),))[0]), 0 if dtype == np.int8 else 255
        if not 0 <= point <= most:
            raise self._error(f"{zero}: expected a zero point from 0 to {most} for {dtype.name} weights, got {point}")

    def _quantity(self, scope: str) -> None:
        scale, numbers = quantity_names(scope)
        self._scales(scale, self._need(scale, (np.float32,), ((1,),)))
        point, low, high = self._need(numbers, (np.int32,), ((3,),)).tolist()
        least, most = self._own.lowest, self._own.lowest + 255
        if not (least <= point <= most and least <= low <= high <= most):
            raise self._error(
                f"{numbers}: expected a zero point and a range within [{least}, {most}], got {point}, {low} to {high}"
            )

    def _image(self) -> None:
        image = self._own.quantity(IMAGE)
        if not any(self._own.fits(edges) for edges in (self._own.range, *_USUAL_RANGES)):
            raise self._error(
                "the image: expected the scale and zero point of pixels over [-1, 1], [0, 1] or [0, 255], which is a "
                f"scale of about 1/127.5, 1/255 or 1; got {image.scale} and {image.zero_point}"
            )

    def _multipliers(self, index: int) -> None:
        layer, own = self._network.layers[index], self._own
        multipliers = own.multipliers(index)
        if not (np.isfinite(multipliers) & (multipliers < _MOST_MULTIPLIER)).all():
            raise self._error(
                f"{layer.scope}: expected scales whose input * weights / output is below {_MOST_MULTIPLIER:.0f}, "
                f"got {multipliers.max()}"
            )
        kernel, bias, _, zero = (self._tensors[name] for name in weights_names(layer))
        inputs = kernel[..., 0].size if layer.kind != "depthwise" else layer.kernel**2
        size = np.abs(bias.astype(np.int64))
        suspects = np.flatnonzero(size + inputs * 255 * 255 > _INT32)  # usually empty
        if suspects.size == 0:
            return
        columns = kernel.reshape(-1, layer.out_channels)[:, suspects].astype(np.int64) - int(zero[0])
        point = own.input_of(index).zero_point - own.lowest
        positive, negative = columns.clip(min=0).sum(axis=0), columns.clip(max=0).sum(axis=0)
        most = bias[suspects] + positive * (255 - point) - negative * point
        least = bias[suspects] - positive * point + negative * (255 - point)
        if most.max() > _INT32 or least.min() < -_INT32 - 1:
            raise self._error(f"{layer.scope}: expected sums that int32 can hold, but some inputs exceed it")

    def _averages(self) -> None:
        own, head = self._own, self._network.head
        before, after = own.quantity(head.scope), own.quantity(POOL)
        if own.lowest == 0 and (before.scale, before.zero_point) != (after.scale, after.zero_point):
            raise self._error(
                f"{POOL}: expected AVERAGE_POOL_2D to keep scale {before.scale} and zero point {before.zero_point}, "
                f"got {after.scale} and {after.zero_point}"
            )
        with np.errstate(all="ignore"):
            ratio = np.float32(before.scale / after.scale)
        if not ratio / (head.out_height * head.out_width) < _MOST_MULTIPLIER:
            raise self._error(f"{POOL}: expected a ratio of scales below {_MOST_MULTIPLIER:.0f}, got {ratio}")

    def _sum(self, block: int) -> None:
        own, output = self._own, self._own.quantity(sum_scope(block))
        for part in (own.quantity(self._network.layers[3 * block + 2].scope), own.block_input(block)):
            with np.errstate(all="ignore"):
                ratio = np.float32(part.scale / output.scale)
            if not _SUM_RATIOS[0] <= ratio < _SUM_RATIOS[1]:
                raise self._error(
                    f"{sum_scope(block)}: expected scales of the addends that are 2^-10 to 2^8 times the sum's, "
                    f"got {ratio} times"
                )
