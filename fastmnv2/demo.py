"""``fastmnv2 demo``: something to see within a second, without a network."""

import time
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

import fastmnv2
from fastmnv2.weights import names

_SHOWN = 12  # images in the table of similarities


def sample_images() -> dict[str, NDArray[np.uint8]]:
    """Six images ``[96,96,3]`` in three pairs that look alike."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:96, 0:96].astype(np.float32)
    sunset = np.stack([255 - y, 140 - y * 0.8 + x * 0.3, 60 + y * 1.5], -1)
    board = np.where(((x // 12 + y // 12) % 2)[..., None] > 0, [240, 240, 230], [30, 40, 60])
    disc = np.where((np.hypot(x - 48, y - 48) < 30)[..., None], [220, 40, 40], [235, 235, 220])
    pairs = {
        "sunset": sunset,
        "sunset, noisy": sunset + rng.normal(0, 6, sunset.shape),
        "chessboard": board,
        "chessboard, shifted": np.roll(board, 4, axis=1),
        "disc": disc,
        "disc, darker": disc * 0.8,
    }
    return {name: np.clip(image, 0, 255).astype(np.uint8) for name, image in pairs.items()}


def run(images: Mapping[str, NDArray] | None, weights: str | None, threads: int | None) -> Iterator[str]:  # type: ignore[type-arg]
    """Lines to print. Falls back to untrained weights, and says so, where no others are at hand."""
    with names.offline():
        try:
            model = fastmnv2.load(weights, threads=threads)
        except fastmnv2.WeightsUnavailable:
            if weights is not None:
                raise
            model = fastmnv2.load("untrained", threads=threads)
            yield "The imagenet weights are not on this machine, and the demo does not download them."
            yield "Running UNTRAINED weights: timings are real, the features below mean nothing."
            yield "For real ones set FASTMNV2_WEIGHTS, or let fastmnv2.load() download them once."
            yield ""
    chosen = dict(images or sample_images())
    batch = np.stack(list(chosen.values()))
    features = model.embed(batch)
    yield f"weights  {model.weights['form']}: {model.weights['origin']}"
    yield f"engine   {model.isa}, up to {threads or fastmnv2.info(model)['threads']} threads"
    yield f"images   {len(batch)} -> features {list(features.shape)} {features.dtype}"
    yield ""
    yield from _similarities(list(chosen)[:_SHOWN], features[:_SHOWN])
    yield ""
    yield f"latency      {_median(model, batch[:1]) * 1e3:.2f} ms for one image (median)"
    many = np.resize(batch, (32, 96, 96, 3))
    yield f"throughput   {32 / _median(model, many):.0f} images a second (batches of 32)"


def _similarities(labels: list[str], features: NDArray[np.float32]) -> Iterator[str]:
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    width = max(len(label[-30:]) for label in labels)
    yield "cosine similarity".ljust(width + 4) + "".join(f"{i + 1:>6}" for i in range(len(labels)))
    for i, (label, row) in enumerate(zip(labels, unit @ unit.T, strict=True)):
        yield f"{i + 1:>2}  {label[-30:]:<{width}}" + "".join(f"{value:6.2f}" for value in row)


def _median(model: fastmnv2.Model, batch: NDArray) -> float:  # type: ignore[type-arg]
    times = []
    for _ in range(30):
        start = time.perf_counter()
        model.embed(batch)
        times.append(time.perf_counter() - start)
    return float(np.median(times[3:]))
