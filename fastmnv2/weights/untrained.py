"""Seeded weights for timings and tests: real numerics, meaningless features."""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.network import EPSILON, LAYERS, LOGITS, Layer
from fastmnv2.weights.tensors import Source

_Array = NDArray[np.float64]


def untrained(seed: int = 0) -> Source:
    """Random weights whose batch norms are calibrated, so that activations stay in a trained network's range.

    Layer by layer, each channel's mean and variance before its batch norm are measured on two seeded
    images with the spectrum of photographs. The same ``seed`` gives the same bits on any machine: numpy's
    ``RandomState`` stream is frozen, and the measured statistics are rounded to 8 significant bits, far
    coarser than what the order of a sum can change.
    """
    random = np.random.RandomState(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    x = _images(random, 2) * 2 - 1
    shortcut = x
    for layer in LAYERS[:-1]:
        if layer.scope.endswith("/expand"):
            shortcut = x
        kernel = _normal(random, layer.weights_shape, 2.0 / _fan_in(layer))
        if layer.kind == "depthwise":
            # Smoothing on the whole, as trained ones are: differences alone would amplify rounding errors.
            kernel += np.float32(0.25)
        y = _convolve(x, kernel.astype(np.float64), layer)
        mean, variance = (_rounded(part) for part in (y.mean((0, 1, 2)), y.var((0, 1, 2))))
        gamma = random.uniform(0.5, 1.5, layer.out_channels) * (1.0 if layer.relu6 else 0.7)
        beta = random.normal(0.7 if layer.relu6 else 0.0, 0.7, layer.out_channels)
        tensors[layer.weights_name] = kernel
        for name, values in (
            ("gamma", gamma),
            ("beta", beta),
            ("moving_mean", mean),
            ("moving_variance", variance),
        ):
            tensors[f"{layer.scope}/BatchNorm/{name}"] = values.astype(np.float32)
        y = (y - mean) / np.sqrt(variance + EPSILON) * gamma + beta
        if layer.residual:
            y += shortcut
        x = np.clip(y, 0, 6) if layer.relu6 else y
    tensors[LOGITS.weights_name] = _normal(random, LOGITS.weights_shape, 4.0 / LOGITS.in_channels)
    tensors[LOGITS.biases_name] = random.normal(0, 0.5, LOGITS.out_channels).astype(np.float32)
    digest = hashlib.sha256(b"".join(tensor.tobytes() for tensor in tensors.values())).hexdigest()
    return Source("untrained", f"untrained (seed {seed})", digest, tensors, ("features are meaningless",))


def _normal(random: np.random.RandomState, shape: tuple[int, ...], variance: float) -> NDArray[np.float32]:
    values: NDArray[np.float32] = (random.standard_normal(shape) * np.sqrt(variance)).astype(np.float32)
    return values


def _fan_in(layer: Layer) -> int:
    taps = layer.kernel * layer.kernel
    return taps if layer.kind == "depthwise" else taps * layer.in_channels


def _rounded(values: _Array) -> _Array:
    mantissa, exponent = np.frexp(values)
    rounded: _Array = np.ldexp(np.round(mantissa * 256), exponent - 8)
    return rounded


def _images(random: np.random.RandomState, count: int) -> _Array:
    """Images in [0,1] whose amplitude falls with frequency, as in photographs: blurred noise of four scales."""
    image = np.zeros((count, 96, 96, 3))
    for cells in (3, 8, 24, 96):
        coarse = random.standard_normal((count, cells, cells, 3)) + 0.7 * random.standard_normal(
            (count, cells, cells, 1)
        )
        image += coarse.repeat(96 // cells, 1).repeat(96 // cells, 2) / cells**0.5
    scaled: _Array = np.clip(0.5 + image / 4, 0, 1)
    return scaled


def _taps(x: _Array, layer: Layer) -> Iterator[tuple[int, int, _Array]]:
    """The input under each tap of a 3x3 kernel, SAME padding: before at stride 1, after at any stride."""
    before = 1 if layer.stride == 1 else 0
    padded = np.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0)))
    span = layer.out_size * layer.stride
    for row in range(3):
        for column in range(3):
            yield (
                row,
                column,
                padded[:, row : row + span : layer.stride, column : column + span : layer.stride],
            )


def _convolve(x: _Array, kernel: _Array, layer: Layer) -> _Array:
    if layer.kind == "pointwise":
        y: _Array = x @ kernel[0, 0]
        return y
    y = np.zeros((len(x), layer.out_size, layer.out_size, layer.out_channels))
    for row, column, part in _taps(x, layer):
        y += part * kernel[row, column, :, 0] if layer.kind == "depthwise" else part @ kernel[row, column]
    return y
