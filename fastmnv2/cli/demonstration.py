"""``fastmnv2 demo``: sample pictures, the similarity of their features, and timings."""

import functools
import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import fastmnv2
from fastmnv2 import image
from fastmnv2.core import threads
from fastmnv2.core.errors import CONTROLS

if TYPE_CHECKING:
    from fastmnv2.image.inputs import Pictures

_BATCH = 32

Named = tuple[list[str], NDArray[np.float32]]
"""Names, and pictures of one size."""


def load_without_network(weights: str | None, count: int | None, precision: Any = None) -> tuple[fastmnv2.Model, str]:
    """Load a model. If ``weights`` is None and "imagenet" is not on this machine, the model is untrained.

    Returns the model, and a text that explains why it is untrained, or "".
    """
    try:
        return fastmnv2.load(weights, threads=count, download=False, precision=precision), ""
    except fastmnv2.WeightsUnavailable:
        if weights is not None:
            raise
        return fastmnv2.load("untrained", threads=count), (
            "The imagenet weights are not on this machine, and the demo does not download them. It uses\n"
            "random weights: the features mean nothing, but the timings are real. To get real weights, run\n"
            "`fastmnv2 convert imagenet FILE.safetensors` once with a network, or set FASTMNV2_WEIGHTS to\n"
            "a TF-Hub module, TF-Slim checkpoint, Keras, TFLite or native file."
        )


def samples(size: tuple[int, int]) -> Named:
    """Names of three pairs of near-duplicates, and the pictures [6,height,width,3], read from PNG as usual."""
    import PIL.Image

    names, pictures = [], []
    for name, draw in (("disc", _disc), ("board", _board), ("clouds", _clouds)):
        for variant in (0, 1):
            data = io.BytesIO()
            PIL.Image.fromarray((draw(variant) * 255).round().astype(np.uint8)).save(data, "PNG")
            names.append(f"{name} {'ab'[variant]}")
            pictures.append(image.load_image(data, size))
    return names, np.stack(pictures)


def decoded(pictures: "Pictures", size: tuple[int, int]) -> Named:
    """Names of the command's pictures, and the pictures [n,height,width,3], decoded and resized as usual."""
    found = list(pictures.results(lambda images, _threads: images.copy(), threads.available(), size))
    images = np.stack([value for _, value in found]) if found else np.empty((0, *size, 3), np.float32)
    return [name for name, _ in found], images


def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    down, across = np.mgrid[0:180, 0:240] / 180.0
    return down, across


def _disc(variant: int) -> NDArray[np.float64]:
    down, across = _grid()
    inside = np.clip((0.3 - np.hypot(down - 0.5, across - 0.65 - 0.01 * variant)) * 60, 0, 1)[..., np.newaxis]
    sky = np.stack([0.3 + 0.4 * down, 0.5 + 0.2 * down, 0.9 - 0.2 * down], axis=-1)
    return np.asarray(inside * (0.95, 0.8, 0.2) + (1 - inside) * sky)


def _board(variant: int) -> NDArray[np.float64]:
    down, across = _grid()
    odd = (np.floor(down * 6) + np.floor(across * 6)) % 2
    shade = (0.1 + 0.8 * odd) * (1 - 0.02 * variant)
    return np.repeat(shade[..., np.newaxis], 3, axis=2)


def _clouds(variant: int) -> NDArray[np.float64]:
    random = np.random.RandomState(5)
    coarse = random.rand(12, 16, 3).astype(np.float32)
    field = image.resize(coarse, (180, 240)).astype(np.float64)
    return np.asarray(np.clip(field + variant * random.normal(0, 0.02, field.shape), 0, 1))


def similarities(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines between rows, [n,n]; 0 for a row of zeros."""
    wide = features.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30)
    return np.asarray(unit @ unit.T)


def run(
    weights: str | None,
    count: int | None,
    pictures: Callable[[tuple[int, int]], Named],
    echo: Callable[[str], None],
    precision: Any = None,
) -> None:
    """Embed the pictures that ``pictures`` returns for the network's size, and print the report with ``echo``."""
    model, warning = load_without_network(weights, count, precision)
    names, images = pictures(model.network.size)
    used = threads.resolve(count)
    origin = model.weights
    echo(f"fastmnv2 {fastmnv2.__version__}, {model.network.name}, {model.precision} on {model.isa}, {_threads(used)}")
    echo(f"weights: {origin['form']}, {origin['origin'].translate(CONTROLS)}, sha256 {origin['sha256'][:16]}")
    for note in origin["notes"]:
        echo(f"note: {note}")
    if warning:
        echo(f"\n{warning}")
    echo("\ncosine similarity of the features:")
    cosines = similarities(model.embed(images))
    for line in _table([name.translate(CONTROLS) for name in names], cosines):
        echo(line)
    echo("")
    _time(model, images, used, echo)


def _table(names: Sequence[str], cosines: NDArray[np.float64]) -> Iterator[str]:
    """Lines of at most 80 columns for up to twelve pictures."""
    count = len(names)
    wide = count <= 7
    label, cell = (16, 6) if wide else (13, 4)
    labels = [_short(name, label) for name in names]
    yield " " * (3 + label) + "".join(f"{i + 1:>{cell}}" for i in range(count)) + "  most like"
    others = cosines - 2 * np.eye(count)
    for i, name in enumerate(labels):
        cells = (f"{value:.3f}" if wide else f"{value:.2f}".lstrip("0")[:3] for value in cosines[i])
        nearest = labels[int(others[i].argmax())] if count > 1 else "-"
        yield f"{i + 1:>2} {name:<{label}}" + "".join(f"{text:>{cell}}" for text in cells) + f"  {nearest}"


def _time(model: fastmnv2.Model, images: NDArray[np.float32], most: int, echo: Callable[[str], None]) -> None:
    for n in sorted({1, most}):
        one = _median_seconds(functools.partial(model.embed, images[0], threads=n), 50)
        echo(f"{'one image, ' + _threads(n) + ':':<28}{one * 1e3:8.2f} ms")
    batch = images[np.arange(_BATCH) % len(images)]
    many = _median_seconds(functools.partial(model.embed, batch), 7) / _BATCH
    echo(f"{f'batches of {_BATCH}, ' + _threads(most) + ':':<28}{1 / many:8,.0f} images/s")


def _threads(n: int) -> str:
    return f"{n} thread{'s' if n > 1 else ''}"


def _short(name: str, most: int) -> str:
    name = Path(name).name
    half = most // 2
    return name if len(name) <= most else f"{name[: most - half - 1]}…{name[-half:]}"


def _median_seconds(call: Callable[[], object], runs: int) -> float:
    call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
