"""Where the time goes, layer by layer, as the engine itself counts it."""

import math
import time
from typing import NamedTuple

import numpy as np

from fastmnv2 import _engine, arrays, network
from fastmnv2.model import Model


class LayerTime(NamedTuple):
    """One layer's share of a call."""

    name: str  # TF-Slim's scope without "MobilenetV2/"
    kind: str  # "conv", "depthwise" or "pointwise"
    macs: int  # multiply-adds, taps in the padding counted
    bytes: int  # of weights, input and output maps, once each
    seconds: float  # median over the calls
    peak: float  # multiply-adds a second that this core does at most, measured between the calls

    @property
    def share(self) -> float:
        """Of the multiply-add peak."""
        return self.macs / self.seconds / self.peak


def macs(layer: network.Layer) -> int:
    """Multiply-adds of a layer for one image, taps in the padding counted."""
    return layer.out_size**2 * math.prod(layer.weights_shape)


NETWORK_MACS = sum(macs(layer) for layer in network.LAYERS[:-1])
"""Multiply-adds of the network without logits for one image: 38,165,472."""


def layers(model: Model, *, n: int = 1, calls: int = 300) -> list[LayerTime]:
    """Time of each layer for ``n`` images, on one thread: medians of ``calls`` calls.

    Reading the clock around each kernel costs the whole about 2 %. A layer's time includes waiting for its
    inputs to come from wherever the layer before left them. The pool is not counted.
    """
    rng = np.random.RandomState(0)
    images = rng.rand(n, 96, 96, 3).astype(np.float32)
    features = np.empty((n, arrays.FEATURES), np.float32)
    ticks = np.zeros((calls, len(network.LAYERS)), np.uint64)
    peaks = []
    forward = model._engine.forward
    clock, begin = _engine.ticks(), time.perf_counter()
    for call in range(calls):
        if call % 25 == 0:
            start = time.perf_counter()
            peaks.append(_engine.peak_macs(model.isa, 6e7) / (time.perf_counter() - start))
            forward(images, False, n, features, 1)
        forward(images, False, n, features, 1, None, ticks[call])
    rate = (_engine.ticks() - clock) / (time.perf_counter() - begin)
    peak = sorted(peaks)[len(peaks) // 2]
    seconds = np.median(ticks, axis=0) / rate
    return [
        LayerTime(
            layer.scope.removeprefix("MobilenetV2/"),
            layer.kind,
            n * macs(layer),
            4 * (math.prod(layer.weights_shape) + layer.out_channels + n * _maps(layer)),
            float(seconds[index]),
            peak,
        )
        for index, layer in enumerate(network.LAYERS[:-1])
    ]


def _maps(layer: network.Layer) -> int:
    return layer.in_size**2 * layer.in_channels + layer.out_size**2 * layer.out_channels
