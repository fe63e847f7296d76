"""The times of calls and of layers, compared with the processor's peak."""

import math
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core import _engine
from fastmnv2.core.arguments import Precision
from fastmnv2.core.model import Model
from fastmnv2.core.network import Layer


class LayerTime(NamedTuple):
    """One layer's share of a call."""

    name: str  # TF-Slim's scope without "MobilenetV2/"
    kind: str  # "conv", "depthwise" or "pointwise"
    macs: int  # multiply-adds, including taps in the padding
    bytes: int  # size of weights, input maps and output maps
    seconds: float  # median over the calls
    peak: float  # this core's maximum of multiply-adds per second, measured between the calls

    @property
    def share(self) -> float:
        """The share of the multiply-add peak that the layer reaches."""
        return self.macs / self.seconds / self.peak


class CallTime(NamedTuple):
    """The time of calls with ``n`` images on ``threads`` threads."""

    n: int
    threads: int
    median: float  # seconds a call
    p99: float
    share: float  # share of the multiply-add peak of that many cores


def peak(isa: str, amount: float = 1.2e8, precision: Precision = "float32") -> float:
    """One core's current maximum of multiply-adds per second, measured with ``amount`` of them (about 2 ms)."""
    amount *= 4 if precision == "int8" else 1
    _engine.peak_macs(isa, amount / 10, precision)  # the clock has to settle first
    start = time.perf_counter()
    return _engine.peak_macs(isa, amount, precision) / (time.perf_counter() - start)


def ping() -> float:
    """Current one-way latency of a cache line between two cores, in seconds; 0 if there is only one core.

    Threads that share one image wait at least this long for each other's data. In a virtual machine, the latency
    depends on where the host runs the cores: 50 ns if they share a cache, four times as long otherwise.
    """
    clock, begin = _engine.ticks(), time.perf_counter()
    taken = sorted(_engine.ping_ticks() for _ in range(5))[2]
    return taken * (time.perf_counter() - begin) / (_engine.ticks() - clock)


def _images(model: Model, n: int) -> NDArray[np.float32]:
    return np.random.RandomState(0).rand(n, *model.network.image_shape).astype(np.float32)


def calls(model: Model, n: int, threads: int, seconds: float = 1.0) -> CallTime:
    """Time calls of ``model.embed`` for about ``seconds``, but at least 5 calls."""
    images, out = _images(model, n), np.empty((n, model.network.features), np.float32)
    times: list[float] = []
    peaks = [peak(model.isa, precision=model.precision)]
    model.embed(images, out=out, threads=threads)
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        if len(times) % 100 == 99:
            peaks.append(peak(model.isa, precision=model.precision))
        start = time.perf_counter()
        model.embed(images, out=out, threads=threads)
        times.append(time.perf_counter() - start)
    median, p99 = (float(value) for value in np.quantile(times, (0.5, 0.99)))
    return CallTime(n, threads, median, p99, n * model.network.macs / (median * threads * float(np.median(peaks))))


def layers(model: Model, *, n: int = 1, calls: int = 300) -> list[LayerTime]:
    """Time of each layer for ``n`` images, on one thread: medians of ``calls`` calls.

    Reading the clock around each kernel adds about 2 % in total. A layer's time includes loading its inputs from the
    cache level to which the layer before wrote them. The pooling is not counted.
    """
    images, features = _images(model, n), np.empty((n, model.network.features), np.float32)
    ticks = np.zeros((calls, len(model.network.layers)), np.uint64)
    peaks = []
    forward = model.engine.forward
    clock, begin = _engine.ticks(), time.perf_counter()
    for call in range(calls):
        if call % 25 == 0:
            peaks.append(peak(model.isa, precision=model.precision))
            forward(images, False, n, features, 1)
        forward(images, False, n, features, 1, None, ticks[call])
    rate = (_engine.ticks() - clock) / (time.perf_counter() - begin)
    usual_peak, item = float(np.median(peaks)), 1 if model.precision == "int8" else 4
    seconds = np.median(ticks, axis=0) / rate
    return [
        LayerTime(
            layer.scope.removeprefix("MobilenetV2/"),
            layer.kind,
            n * layer.macs,
            item * (math.prod(layer.weights_shape) + n * _maps(layer)) + 4 * layer.out_channels,
            float(seconds[index]),
            usual_peak,
        )
        for index, layer in enumerate(model.network.layers[:-1])
    ]


def _maps(layer: Layer) -> int:
    inputs = layer.in_height * layer.in_width * layer.in_channels
    return inputs + layer.out_height * layer.out_width * layer.out_channels
