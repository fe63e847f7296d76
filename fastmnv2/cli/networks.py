"""``fastmnv2 bench --networks``: the speed of each published member on this machine, and its published accuracy."""

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from fastmnv2.core import profile, threads
from fastmnv2.core.model import Model
from fastmnv2.core.network import Network, of, shapes
from fastmnv2.weights.fold import fold
from fastmnv2.weights.int8 import calibration
from fastmnv2.weights.names import TOP1
from fastmnv2.weights.tensors import Folded
from fastmnv2.weights.untrained import untrained

_BATCH = 16


class Speed(NamedTuple):
    """The measured speed of a member in one precision."""

    milliseconds: float  # for one image on one thread, the median of many calls
    rate: float  # images per second in batches of 16, on all threads


class Member(NamedTuple):
    """One published member: published facts and measured speeds."""

    network: Network
    parameters: int  # of the network up to the feature vector
    top1: float  # published top-1 accuracy on ImageNet's validation images, in percent
    speed: dict[str, Speed]  # by precision


@functools.lru_cache(maxsize=1)
def _weights(multiplier: float) -> Folded:
    """Untrained weights. Their values don't affect timings, and they fit images of any size."""
    return fold(untrained(network=of(multiplier, 96, 96)))


def models(network: Network) -> dict[str, Model]:
    """A model for each precision, with untrained weights."""
    folded = replace(_weights(network.multiplier), size=network.size)
    return {"float32": Model(folded), "int8": Model(calibration.untrained(folded))}


def measured(seconds: float = 0.4) -> Iterator[Member]:
    """Measure every published member, narrow and small ones first, for about ``seconds`` per figure."""
    for (multiplier, size), top1 in TOP1.items():
        network = of(multiplier, size, size)
        speed = {}
        for precision, model in models(network).items():
            one = profile.calls(model, 1, 1, seconds)
            many = profile.calls(model, _BATCH, threads.available(), seconds)
            speed[precision] = Speed(one.median * 1e3, _BATCH / many.median)
        tensors = shapes(network.layers[:-1], folded=False).values()
        yield Member(network, sum(map(math.prod, tensors)), top1, speed)


def table() -> Iterator[str]:
    """The lines of a table of all members, as they are measured."""
    row = "{:<21} {:>10} {:>6} {:>6}  {:>8} {:>8}  {:>8} {:>8}"
    one, many = "ms, 1 image, 1 thread", f"images/s, {threads.available()} threads"
    yield f"{'':<46}  {one:^17}  {many:^17}"
    yield row.format("network", "parameters", "MMACs", "top-1", *("float32", "int8") * 2)
    for member in measured():
        speeds = [member.speed[precision] for precision in ("float32", "int8")]
        yield row.format(
            member.network.name,
            f"{member.parameters:,}",
            f"{member.network.macs / 1e6:.1f}",
            f"{member.top1}%",
            *(f"{speed.milliseconds:.3f}" for speed in speeds),
            *(f"{speed.rate:,.0f}" for speed in speeds),
        )
