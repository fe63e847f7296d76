"""MobileNet V2 0.75/96 image feature vectors on the CPU, fast, with numpy alone.

>>> import fastmnv2
>>> features = fastmnv2.embed(images)  # [n,96,96,3] in [0,1] -> [n,1280]
"""

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2._version import __version__
from fastmnv2.core import kept, network
from fastmnv2.core.errors import ImageError, WeightsError, WeightsUnavailable
from fastmnv2.core.model import Model, available_isas, isa

if TYPE_CHECKING:
    from keras import Model as KerasModel

    from fastmnv2 import image as image
    from fastmnv2.image.decode import Decode
    from fastmnv2.image.embed import OnError
    from fastmnv2.image.resizing import Method
    from fastmnv2.weights.int8.calibration import Report

__all__ = [
    "ImageError",
    "Model",
    "WeightsError",
    "WeightsUnavailable",
    "__version__",
    "available_isas",
    "embed",
    "embed_images",
    "get_expected_image_size",
    "image",
    "info",
    "isa",
    "iter_embed_images",
    "load",
    "quantize",
]

PARTS = ("hub", "image", "keras", "learn", "sklearn")
"""Modules that are there without an import of their own."""

_Weights = str | os.PathLike[str] | None


def load(
    weights: "_Weights | KerasModel" = None,
    *,
    threads: int | None = None,
    download: bool = True,
    precision: str = "float32",
    input_range: tuple[float, float] | None = None,
    head: bool = True,
    classes: Sequence[str] | None = None,
) -> Model:
    """Load weights and make a model of them.

    Args:
        weights: a path to any of the five forms (TF1 hub module folder or archive, TF-Slim checkpoint,
            Keras weights, TFLite, native .safetensors), told apart by content; a TF-Hub URL; "imagenet",
            the default; "untrained": seeded weights with meaningless features, for timings and tests; or a
            Keras model, such as one that was trained with ``fastmnv2.keras``. A file by the name of "imagenet"
            is "./imagenet".
        threads: default for the model's calls; None for every CPU that this process may use.
        download: whether "imagenet" may be downloaded where it is not found.
        precision: "float32", which dequantises 8-bit files; or "int8" for 8-bit TFLite files and native ones made
            of them or by ``fastmnv2 quantize``, computed in integers: every output has the bits that LiteRT's
            default engine gives on x86-64, at several times its speed.
        input_range: what black and white become before the network's first convolution, for files that don't say
            and are not of the usual (-1, 1): (0, 1) for a network that was trained on images in [0,1]. Layers in
            a Keras file that say it (Rescaling, arithmetic) are honoured without. What ``embed`` takes is the same.
        head: whether to load what stands behind the pooling in a Keras file, for ``Model.predict``.
        classes: names of the head's classes, in order.

    "imagenet" is looked for in ``FASTMNV2_WEIGHTS`` (a path), in the installed wheel, in TF-Hub's cache and the
    user's cache, and is else downloaded.

    Raises:
        FileNotFoundError: there is no such path.
        WeightsError: the file is malformed, of another network, holds values that are not finite, or has no 8-bit
            integers, or impossible ones, where "int8" asks for them; or a layer before the network or behind it
            can't be run, which the message names.
        TypeError, ValueError: ``precision``, ``input_range`` or ``classes`` are not as above.
        WeightsUnavailable: "imagenet" weights are nowhere to be had; the message names the ways out.
        OSError: there is no room on the disk to unpack or download them, or no more files can be opened.
    """
    return kept.load(
        weights,
        threads=threads,
        download=download,
        precision=precision,
        input_range=input_range,
        head=head,
        classes=classes,
    )


def embed(
    images: Any,
    *,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
    normalize: bool = False,
    weights: _Weights | Model = None,
) -> NDArray[np.float32]:
    """Feature vectors of images: ``load(weights).embed(images)`` with the model kept for the next call.

    See ``Model.embed`` for the arguments and what is returned, and ``load`` for ``weights``.
    """
    return _model(weights).embed(images, out=out, threads=threads, normalize=normalize)


def embed_images(
    items: Iterable[Any],
    *,
    weights: _Weights | Model = None,
    batch_size: int = 64,
    threads: int | None = None,
    method: "Method" = "tf2",
    decode: "Decode" = "exact",
    on_error: "OnError" = "raise",
    normalize: bool = False,
    progress: bool = False,
    out: NDArray[np.float32] | None = None,
    exif: bool = True,
    max_pixels: int | None = None,
) -> NDArray[np.float32]:
    """Feature vectors of picture files and other pictures. Decodes, resizes and computes on every core at once.

    Needs ``pip install 'fastmnv2[images]'`` for anything but arrays.

    Args:
        items: paths, fsspec URLs (``fastmnv2[fsspec]``), the bytes of files, open binary files, Pillow pictures, and
            arrays [H,W], [H,W,1], [H,W,3] or [H,W,4] of any size, uint8 or float in [0,1]; mixed as you like.
            What becomes of grey, alpha, CMYK, 16 bits and animations is told at ``fastmnv2.image.read``.
        weights: as for ``load``, or a model. Models are kept for the next call, as by ``embed``.
        batch_size: about how many items are held at a time, in all threads together.
        threads: the most threads to use; None for every CPU that this process may use. Each holds a decoded picture.
        method: how pictures become 96x96, as for ``fastmnv2.image.resize``. "tf2" and "tf1" take samples, "area"
            averages, which is what to use where nothing has to be compared with what others have made.
        decode: "exact", or "scaled": JPEGs are decoded at a half, a quarter or an eighth of their size, no less
            than twice what is wanted. That is faster with large pictures, and changes the features: see README.
        on_error: "raise" an ``ImageError`` for the first item that can't be read; "skip" those, which then have no
            row, with one warning that names them; or a function, which is handed each such error.
        normalize: divide each vector by its length.
        progress: draw a bar on stderr, if that is a terminal (``fastmnv2[cli]``).
        out: float32 [n,1280], to which the vectors are written; for skipped items, as many rows less.
        exif: turn pictures as their EXIF orientation says. ``exif=False`` does as TensorFlow does.
        max_pixels: refuse larger pictures; 2^26 unless given.

    Returns:
        float32 ``[n,1280]``, in the order of the items.

    Raises:
        ImageError: an item can't be read (a ValueError, with ``index``, ``name`` and ``reason``).
        TypeError, ValueError: another argument is not as above.
    """
    return _model(weights).embed_images(
        items, batch_size=batch_size, threads=threads, method=method, decode=decode, on_error=on_error,
        normalize=normalize, progress=progress, out=out, exif=exif, max_pixels=max_pixels,
    )  # fmt: skip


def iter_embed_images(
    items: Iterable[Any],
    *,
    weights: _Weights | Model = None,
    batch_size: int = 64,
    threads: int | None = None,
    method: "Method" = "tf2",
    decode: "Decode" = "exact",
    on_error: "OnError" = "raise",
    normalize: bool = False,
    exif: bool = True,
    max_pixels: int | None = None,
) -> Iterator[tuple[Any, NDArray[np.float32]]]:
    """Pairs of an item and its feature vector, in order, for streams of any length, also without an end.

    Arguments and errors are those of ``embed_images``; skipped items are left out. At most about ``batch_size``
    items are held at a time. They are taken from ``items`` by whoever advances this iterator; a vector that is there
    is handed out before the next item is taken, so that a slow source holds up one item, not a batch. Closing the
    iterator (or Ctrl-C while it works) stops its threads.
    """
    return _model(weights).iter_embed_images(
        items, batch_size=batch_size, threads=threads, method=method, decode=decode, on_error=on_error,
        normalize=normalize, exif=exif, max_pixels=max_pixels,
    )  # fmt: skip


def _model(weights: _Weights | Model) -> Model:
    return weights if isinstance(weights, Model) else kept.model(weights)


def get_expected_image_size() -> tuple[int, int]:
    """Height and width that ``embed`` takes, in pixels."""
    return (network.SIZE, network.SIZE)


def info(weights: _Weights | Model = None) -> dict[str, Any]:
    """What a bug report needs: versions, instruction sets, threads, weights and build flags.

    ``weights`` tells what ``weights`` (default "imagenet") stand for now, without downloading anything:
    a dict of what ``Model.weights`` tells, or ``error``; ``weights_embedded``,
    whether the package was built with weights in it.
    """
    from fastmnv2.core.describe import describe

    return describe(weights)


def quantize(
    weights: _Weights,
    target: str | os.PathLike[str],
    images: Any,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> "Report":
    """Make an int8 network of float weights and write it as a native file, for ``load(target, precision="int8")``.

    Args:
        weights: as for ``load``.
        target: the ``.safetensors`` to write, whole or not at all.
        images: what to calibrate on, ``[n,96,96,3]`` as for ``embed``: at least 5, a few dozen are enough. Every
            fifth is held out, for the report.
        threads: as for ``load``.
        progress: called with how many layers are done, and of how many.

    Returns:
        A ``fastmnv2.weights.int8.calibration.Report``: how near it is to float32 on the held-out images.

    Raises:
        ValueError, TypeError: ``images`` are not as above. Else as ``load``, and OSError from writing.
    """
    from fastmnv2.weights.int8.calibration import quantize as run
    from fastmnv2.weights.resolve import resolve

    return run(resolve(weights), target, images, threads=threads, progress=progress)


def __dir__() -> list[str]:
    """The interface alone, not what this module is made of."""
    return [*__all__, *(part for part in PARTS if part not in __all__)]


def __getattr__(name: str) -> Any:
    """Parts that need more than numpy, imported when they are first used: ``fastmnv2.image`` and the like."""
    if name in PARTS:
        return importlib.import_module(f"fastmnv2.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
