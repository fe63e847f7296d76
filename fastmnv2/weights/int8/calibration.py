"""Post-training quantisation: float weights to an int8 network, calibrated on pictures.

Weights get one scale per channel. Activations get the range that they have on the pictures. Rounding shifts the mean
of each channel; this shift is then subtracted from the biases, layer by layer.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core import arguments
from fastmnv2.core.model import Model
from fastmnv2.core.network import Layer, Network
from fastmnv2.core.progress import progress as progress_bar
from fastmnv2.core.progress import silent
from fastmnv2.weights.forms import native
from fastmnv2.weights.int8.quantised import (
    IMAGE,
    POOL,
    Quantised,
    image_quantity,
    quantity_names,
    sum_scope,
    weights_names,
)
from fastmnv2.weights.tensors import Folded

HELD_OUT = 5  # every fifth picture is held out to measure the result
_FEWEST = 5
_PART = 8  # images whose maps are in memory at the same time

_Maps = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Report:
    """How close an int8 network is to the float one, on held-out pictures."""

    calibrated: int  # pictures
    held_out: int
    errors: dict[str, float]  # relative L2 error against float32, by endpoint
    cosines: NDArray[np.float64]  # cosine between each held-out picture's int8 and float32 features
    top1: float | None  # share of held-out pictures with the same most probable class; None without logits

    def lines(self) -> list[str]:
        """The report as text."""
        counts, edges = np.histogram(self.cosines, np.linspace(min(0.95, float(self.cosines.min())), 1, 11))
        bars = [
            f"  {low:.4f} to {high:.4f}  {'#' * int(n)} {n}"
            for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
        ]
        top1 = [] if self.top1 is None else [f"same first class  {self.top1:.1%} of them"]
        return [
            f"calibrated on {self.calibrated} pictures, measured on {self.held_out} others",
            "relative error by layer:",
            *(f"  {name.removeprefix('MobilenetV2/'):<28} {error:.4f}" for name, error in self.errors.items()),
            f"cosine of features to float32: mean {self.cosines.mean():.4f}, minimum {self.cosines.min():.4f}",
            *bars,
            *top1,
        ]

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw errors and cosines to a file, in the format of its suffix. Needs matplotlib."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.barh([name.removeprefix("MobilenetV2/") for name in self.errors], list(self.errors.values()))
        left.invert_yaxis()
        left.tick_params(axis="y", labelsize=4)
        left.set_xlabel("relative error against float32")
        right.hist(self.cosines, 20)
        right.set_xlabel("cosine of features to float32")
        right.set_ylabel("held-out pictures")
        figure.savefig(path, dpi=150)


def quantize(
    folded: Folded,
    target: str | os.PathLike[str],
    images: Any,
    *,
    threads: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Report:
    """See ``fastmnv2.quantize``. ``folded`` holds the float weights."""
    image_quantity(*folded.range)  # check this before work that takes minutes
    array, _ = arguments.as_images(images, folded.network)
    if len(array) < _FEWEST:
        raise ValueError(f"images: expected at least {_FEWEST} to calibrate on, got {len(array)}")
    if array.dtype != np.uint8 and not np.isfinite(array).all():
        raise ValueError("images: expected finite values to calibrate on")
    held_out = np.arange(len(array)) % HELD_OUT == HELD_OUT - 1
    original = Model(folded, threads=threads)
    calibration = _Calibration(folded, original, array[~held_out])
    if callable(progress):
        warnings.warn("progress: a function is deprecated: use True or False", DeprecationWarning, stacklevel=3)
        quantised = calibration.run(progress)
    else:
        with progress_bar("quantising", unit="layers") if progress else contextlib.nullcontext(silent) as advance:
            quantised = calibration.run(advance)
    native.write(target, quantised)
    return _report(original, Model(quantised, threads=threads), array[held_out], int((~held_out).sum()))


def _parts(images: NDArray[Any]) -> Iterable[NDArray[Any]]:
    return (images[start : start + _PART] for start in range(0, len(images), _PART))


def _float_maps(model: Model, images: NDArray[Any]) -> _Maps:
    """The maps of every endpoint, and the projections before residuals are added."""
    network, maps = model.network, model.endpoints(images)
    block_input = maps[network.endpoints[0].name]
    for block, projection in enumerate(network.projections):
        output = maps[network.endpoints[4 * block + 2].name]
        maps[projection.name] = output - block_input if network.has_residual(block) else output
        block_input = output
    if model.has_logits:
        maps[network.logits.scope] = model.logits(images)
    return maps


def _scopes(network: Network) -> dict[str, str]:
    """The scope under which each map's Quantity is stored, by the map's name, in network order; without the logits."""
    found = {}
    for block, projection in enumerate(network.projections):
        expansion, depthwise, output = (network.endpoints[4 * block + part].name for part in range(3))
        layers = network.layers[3 * block : 3 * block + 3]
        found[expansion], found[depthwise], found[projection.name] = (layer.scope for layer in layers)
        if network.has_residual(block):
            found[output] = sum_scope(block)
    return found | {network.endpoints[-2].name: network.head.scope, network.endpoints[-1].name: POOL}


def untrained(folded: Folded) -> Quantised:
    """An int8 network from untrained weights, for timings, with ranges measured on noise."""
    noise = np.random.RandomState(0).randint(0, 256, (8, *folded.network.image_shape)).astype(np.uint8)
    return _Calibration(folded, Model(folded), noise).uncorrected()


class _Calibration:
    """Ranges and means of the float network's maps, and the integer weights that result from them."""

    def __init__(self, folded: Folded, model: Model, images: NDArray[Any]) -> None:
        self._folded, self._shape, self._images = folded, folded.network, images
        logits = self._shape.logits.scope
        self._names = _scopes(self._shape) | ({logits: logits} if folded.has_logits else {})
        self._low = dict.fromkeys(self._names, 0.0)  # every range includes 0
        self._high = dict.fromkeys(self._names, 0.0)
        self._means: dict[str, NDArray[np.float64]] = {name: np.zeros(1) for name in self._names}
        for part in _parts(images):
            maps = _float_maps(model, part)
            for name in self._names:
                self._low[name] = min(self._low[name], float(maps[name].min()))
                self._high[name] = max(self._high[name], float(maps[name].max()))
                self._means[name] = self._means[name] + _sums(maps[name])
        self._tensors: dict[str, NDArray[Any]] = {}

    def uncorrected(self) -> Quantised:
        """The network with rounded weights, without corrected biases."""
        scale, zero = image_quantity(*self._folded.range)
        self._quantity(IMAGE, scale, zero)
        for name, scope in self._names.items():
            self._activation(name, scope)
        for index, layer in enumerate(self._shape.layers[: None if self._folded.has_logits else -1]):
            self._weights(layer, scale)
            before = sum_scope(index // 3) if layer.residual else layer.scope
            scale = self._tensors[quantity_names(POOL if layer is self._shape.head else before)[0]][0]
        return self._network()

    def run(self, advance: Callable[[int, int], None]) -> Quantised:
        """The network with biases corrected for the shifts that rounding causes in the means."""
        self.uncorrected()
        outputs = [name for name, scope in self._names.items() if not scope.endswith("/sum")]
        for done, name in enumerate(outputs):
            advance(done, len(outputs))
            if name != self._shape.endpoints[-1].name:
                self._correct(name, self._names[name])
        advance(len(outputs), len(outputs))
        return self._network()

    def _network(self) -> Quantised:
        notes = (*self._folded.notes, f"quantised after training, on {len(self._images)} pictures")
        values = {field.name: getattr(self._folded, field.name) for field in fields(self._folded)}
        size = self._shape.size
        return Quantised(**values | {"tensors": dict(self._tensors), "notes": notes, "file": "", "size": size})

    def _quantity(self, scope: str, scale: np.float32, zero: int) -> None:
        names = quantity_names(scope)
        self._tensors[names[0]] = np.array([scale], np.float32)
        self._tensors[names[1]] = np.array([zero, -128, 127], np.int32)

    def _activation(self, name: str, scope: str) -> None:
        low, high = self._low[name], self._high[name]
        scale = np.float32(max((high - low) / 255, 1e-6))
        self._quantity(scope, scale, int(np.clip(np.rint(-128 - low / float(scale)), -128, 127)))

    def _weights(self, layer: Layer, source: np.float32) -> None:
        """Quantise symmetrically with one scale per channel, large enough to keep the bias within 2^24 steps."""
        kernel, bias = (
            self._folded.tensors[name].astype(np.float64) for name in (layer.weights_name, layer.biases_name)
        )
        columns = kernel.reshape(-1, layer.out_channels)
        minimum = np.maximum(np.abs(bias) / (float(source) * 2**24), 1e-12)
        scales = np.maximum(np.abs(columns).max(axis=0) / 127, minimum).astype(np.float32)
        wide = scales.astype(np.float64)
        names = weights_names(layer)
        rounded = np.rint(columns / wide).clip(-127, 127).astype(np.int8)
        self._tensors[names[0]] = rounded.reshape(layer.weights_shape)
        self._tensors[names[1]] = np.rint(bias / (float(source) * wide)).astype(np.int32)
        self._tensors[names[2]] = scales
        self._tensors[names[3]] = np.zeros(1, np.int32)

    def _correct(self, name: str, scope: str) -> None:
        """Subtract each channel's mean error from the layer's bias."""
        quantised = self._network()
        model = Model(quantised)
        if name == self._shape.logits.scope:
            total = _sums(model.logits(self._images))
            count = len(self._images)
        else:
            total, count = np.zeros(1), 0
            for part in _parts(self._images):
                maps = model.endpoints(part, [name])[name]
                total, count = total + _sums(maps), count + maps[..., 0].size
        index, layer = next((i, layer) for i, layer in enumerate(self._shape.layers) if layer.scope == scope)
        names = weights_names(layer)
        step = float(quantised.input_of(index).scale) * self._tensors[names[2]].astype(np.float64)
        error = (total - self._means[name]) / count
        self._tensors[names[1]] = np.rint(self._tensors[names[1]] - error / step).astype(np.int32)


def _sums(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """The sum of each channel."""
    return np.asarray(maps.reshape(-1, maps.shape[-1]).sum(axis=0, dtype=np.float64))


def _report(original: Model, quantised: Model, images: NDArray[Any], calibrated: int) -> Report:
    names = list(_scopes(original.network))
    wrong, size = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for part in _parts(images):
        expected, got = _float_maps(original, part), quantised.endpoints(part, names)
        for name in names:
            wrong[name] += float(((got[name] - expected[name]).astype(np.float64) ** 2).sum())
            size[name] += float((expected[name].astype(np.float64) ** 2).sum())
    a, b = (model.embed(images).astype(np.float64) for model in (original, quantised))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(axis=1) / np.maximum(lengths, 1e-30)
    top1 = None
    if original.has_logits:
        same = original.logits(images).argmax(axis=1) == quantised.logits(images).argmax(axis=1)
        top1 = float(same.mean())
    errors = {name: float(np.sqrt(wrong[name] / max(size[name], 1e-30))) for name in names}
    return Report(calibrated, len(images), errors, cosines, top1)
