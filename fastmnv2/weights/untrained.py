"""Seeded random weights for timings and tests: activations as in a trained network, but meaningless features."""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.network import DEFAULT, Layer, Network
from fastmnv2.weights.tensors import Source

_Array = NDArray[np.float64]


def untrained(seed: int = 0, network: Network = DEFAULT) -> Source:
    """Random weights with calibrated batch norms, so that activations stay in a trained network's range.

    Layer by layer, each channel's mean and variance before its batch norm are measured on two seeded images with the
    spectrum of photographs. The same ``seed`` gives the same bits on any machine: numpy guarantees the numbers of
    ``RandomState``, and the statistics are rounded to 8 significant bits, so the order of a sum can't change them.
    """
    random = np.random.RandomState(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    x = _images(random, 2, network) * 2 - 1
    shortcut = x
    for layer in network.layers[:-1]:
        if layer.takes_block_input:
            shortcut = x
        kernel = _normal(random, layer.weights_shape, 2.0 / _fan_in(layer))
        if layer.kind == "depthwise":
            # The shift makes them smoothing filters, as trained ones are; with a mean of 0 they would amplify rounding.
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
        y = (y - mean) / np.sqrt(variance + network.epsilon) * gamma + beta
        if layer.residual:
            y += shortcut
        x = np.clip(y, 0, 6) if layer.relu6 else y
    logits = network.logits
    tensors[logits.weights_name] = _normal(random, logits.weights_shape, 4.0 / logits.in_channels)
    tensors[logits.biases_name] = random.normal(0, 0.5, logits.out_channels).astype(np.float32)
    digest = hashlib.sha256(b"".join(tensor.tobytes() for tensor in tensors.values())).hexdigest()
    notes = ("features are meaningless",)
    return Source("untrained", f"untrained (seed {seed})", digest, tensors, notes, size=network.size)


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


def _images(random: np.random.RandomState, count: int, network: Network = DEFAULT) -> _Array:
    """Images in [0,1] whose amplitude falls with frequency, as in photographs: the sum of noise at four scales."""
    height, width = network.size
    image = np.zeros((count, height, width, 3))
    for cells in (3, 8, 24, 96):
        coarse = random.standard_normal((count, cells, cells, 3)) + 0.7 * random.standard_normal(
            (count, cells, cells, 1)
        )
        down, across = (np.arange(edge) * cells // edge for edge in (height, width))
        image += coarse[:, down][:, :, across] / cells**0.5
    scaled: _Array = np.clip(0.5 + image / 4, 0, 1)
    return scaled


def _taps(x: _Array, layer: Layer) -> Iterator[tuple[int, int, _Array]]:
    """The input under each tap of a 3x3 kernel, with SAME padding."""
    padded = np.pad(x, ((0, 0), *layer.padding, (0, 0)))
    down, across = layer.out_height * layer.stride, layer.out_width * layer.stride
    for row in range(3):
        for column in range(3):
            yield (
                row,
                column,
                padded[:, row : row + down : layer.stride, column : column + across : layer.stride],
            )


def _convolve(x: _Array, kernel: _Array, layer: Layer) -> _Array:
    if layer.kind == "pointwise":
        y: _Array = x @ kernel[0, 0]
        return y
    y = np.zeros((len(x), layer.out_height, layer.out_width, layer.out_channels))
    for row, column, part in _taps(x, layer):
        y += part * kernel[row, column, :, 0] if layer.kind == "depthwise" else part @ kernel[row, column]
    return y
