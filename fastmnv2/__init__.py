"""Fast MobileNet V2 image feature vectors on the CPU, with numpy as the only dependency.

>>> import fastmnv2
>>> features = fastmnv2.embed(images)  # [n,96,96,3] in [0,1] -> [n,1280], with the weights "imagenet"
"""

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2._version import __version__
from fastmnv2.core import model_cache, old_imports
from fastmnv2.core.errors import ImageError, WeightsError, WeightsUnavailable
from fastmnv2.core.model import Model, available_isas, isa
from fastmnv2.core.similarity import pairs

if TYPE_CHECKING:
    from keras import Model as KerasModel

    # PyInstaller finds these modules here; it can't follow the imports in __getattr__.
    from fastmnv2 import hub as hub
    from fastmnv2 import image as image
    from fastmnv2 import learn as learn
    from fastmnv2.core.arguments import Precision
    from fastmnv2.image.embed import OnError
    from fastmnv2.image.options import Colour, Decode
    from fastmnv2.image.resizing import Crop, Method
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
    "pairs",
    "quantize",
]

_SUBMODULES = ("hub", "image", "keras", "learn", "sklearn")
"""Modules that are imported when first used: ``fastmnv2.image`` needs no ``import fastmnv2.image``."""

_Weights = str | os.PathLike[str] | None

old_imports.install()


def load(
    weights: "_Weights | KerasModel" = None,
    *,
    threads: int | None = None,
    download: bool = True,
    precision: "Precision | None" = None,
    input_range: tuple[float, float] | None = None,
    head: bool = True,
    classes: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
) -> Model:
    """Load weights and return a model.

    Args:
        weights: a path to any of the forms (hub module or SavedModel, folder or archive; TF-Slim checkpoint,
            release or frozen graph; Keras, TFLite, native .safetensors; Hugging Face folder), recognised by content;
            a TF-Hub URL or ``hf://OWNER/NAME``; "imagenet", the default; "untrained": seeded weights with meaningless
            features, for timings and tests; or a Keras model, such as one that was trained with ``fastmnv2.keras``. A
            file called "imagenet" in the working directory is "./imagenet".
        threads: the default for the model's calls; None for every CPU that this process may use.
        download: whether "imagenet" may be downloaded if it is not found.
        precision: "float32", which dequantises 8-bit files; or "int8", which runs 8-bit TFLite files, and native
            files made from them or by ``fastmnv2 quantize``, in integers. Every output then has the bits that
            LiteRT's default engine gives on x86-64. None means the precision of a native file ("int8" for 8-bit
            ones, such as a classifier that was trained on int8 features), and "float32" for every other form.
        input_range: the values of black and white at the network's first convolution, for files that don't record
            them and differ from the usual (-1, 1): (0, 1) for a network that was trained on images in [0,1]. Recorded
            ranges are detected: preprocessing layers and operations (Rescaling, arithmetic) of Keras files,
            SavedModels and TFLite files, and TFLite metadata. If a file records no range and its first layer looks
            as if trained on another one, there is a warning. ``embed`` takes the same images either way.
        head: whether to load the layers after the pooling of a Keras or TFLite file, for ``Model.predict``. With
            False, layers that can't be run cause no error.
        classes: names of the head's classes, in order.
        size: height and width of the images in pixels, or one int for both. Needed for files that don't record it
            (checkpoints, Keras weights without a graph); for others it overrides the recorded size. Files of
            multiplier 0.75 that record no size run at 96. The multiplier follows from the weights.

    "imagenet" is looked up in ``FASTMNV2_WEIGHTS`` (a path), the installed wheel, TF-Hub's cache and the user's
    cache, in this order. If it is in none of them, it is downloaded.

    Raises:
        FileNotFoundError: if the path does not exist.
        WeightsError: if the file is malformed, is for another network or has values that are not finite; if "int8" was
            requested and the file has no valid 8-bit integers; or if a layer before or after the network can't be run
            (the message names it).
        TypeError, ValueError: if ``precision``, ``input_range``, ``classes`` or ``size`` are not as above.
        WeightsUnavailable: if "imagenet" can't be found or downloaded; the message lists what to do.
        OSError: if the disk is full, or no more files can be opened.
    """
    return model_cache.load(
        weights,
        threads=threads,
        download=download,
        precision=precision,
        input_range=input_range,
        head=head,
        classes=classes,
        size=size,
    )


def embed(
    images: Any,
    *,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
    normalize: bool = False,
    weights: _Weights | Model = None,
) -> NDArray[np.float32]:
    """Feature vectors of images: ``load(weights).embed(images)``, with the model cached for the next call.

    See ``Model.embed`` for the arguments and the result, and ``load`` for ``weights``.
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
    crop: "Crop | None" = None,
    background: "Colour | None" = None,
) -> NDArray[np.float32]:
    """Feature vectors of picture files and other pictures. Decodes, resizes and computes on every core.

    Needs ``pip install 'fastmnv2[images]'`` for anything but arrays.

    Args:
        items: paths, fsspec URLs (``fastmnv2[fsspec]``), ``data:`` URLs, the bytes of files, open binary files,
            Pillow pictures, and arrays [H,W], [H,W,1], [H,W,3] or [H,W,4] of any size, uint8 or float in [0,1], in any
            mix. ``fastmnv2.image.read`` explains how grey, alpha, CMYK, 16 bits and animations are converted. Pillow
            pictures and arrays from an iterator are resized before the next item is requested, because the iterator
            may reuse their memory; those in a list, tuple or array are resized later. Files are read some time after
            their path is taken from an iterator.
        weights: as for ``load``, or a model. Models are cached for the next call, as with ``embed``.
        batch_size: about the number of items in memory at a time, in all threads together.
        threads: maximum number of threads; None for every CPU that this process may use. Each holds a decoded
            picture.
        method: how pictures are resized to the network's size, as for ``fastmnv2.image.resize``. "tf2" and "tf1"
            sample the picture, "area" averages. Use "area" unless vectors must match vectors made elsewhere.
        decode: "exact", or "scaled", which decodes JPEGs at a half, a quarter or an eighth of their size, but at no
            less than twice the network's. "scaled" is faster with large pictures and changes the features:
            docs/pictures.md has figures.
        on_error: "raise" an ``ImageError`` for the first item that can't be read; "skip" such items, which then have
            no row, with one warning that names them; or a function, which is called with each such error.
        normalize: divide each vector by its length.
        progress: draw a bar on stderr if that is a terminal (``fastmnv2[cli]``).
        out: float32 [n,features] for the result. Skipped items leave no gaps; the filled rows are returned.
        exif: turn pictures upright by their EXIF orientation. ``exif=False`` leaves them as TensorFlow does.
        max_pixels: refuse larger pictures; the default is 2^26. docs/pictures.md has the memory that each kind takes.
        crop: None resizes whole pictures, which distorts those of another aspect ratio than the network's images;
            "center" resizes the largest window in the middle with that ratio: see ``fastmnv2.image.resize``.
        background: a colour behind transparent parts, as for ``fastmnv2.image.read``; None drops alpha.

    Returns:
        float32 ``[n,features]``, in the order of the items.

    Raises:
        ImageError: if an item can't be read (a ValueError, with ``index``, ``name`` and ``reason``).
        TypeError, ValueError: if another argument is not as above.
    """
    return _model(weights).embed_images(
        items, batch_size=batch_size, threads=threads, method=method, decode=decode, on_error=on_error,
        normalize=normalize, progress=progress, out=out, exif=exif, max_pixels=max_pixels, crop=crop,
        background=background,
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
    crop: "Crop | None" = None,
    background: "Colour | None" = None,
) -> Iterator[tuple[Any, NDArray[np.float32]]]:
    """Pairs of an item and its feature vector, in order, for streams of any length, even endless ones.

    Arguments and errors are those of ``embed_images``; skipped items yield nothing. At most about ``batch_size``
    items are held at a time. The thread that advances this iterator takes the items from ``items``. A vector that is
    ready is yielded before the next item is taken, so a slow source delays one item, not a batch. Closing the iterator,
    or Ctrl-C while it works, stops its threads.
    """
    return _model(weights).iter_embed_images(
        items, batch_size=batch_size, threads=threads, method=method, decode=decode, on_error=on_error,
        normalize=normalize, exif=exif, max_pixels=max_pixels, crop=crop, background=background,
    )  # fmt: skip


def _model(weights: _Weights | Model) -> Model:
    return weights if isinstance(weights, Model) else model_cache.model(weights)


def get_expected_image_size(model_or_weights: _Weights | Model = None) -> tuple[int, int]:
    """Height and width, in pixels, of the images that a model takes, or that ``embed`` takes with these weights.

    Without an argument, the size is that of "imagenet", 96 x 96, unless ``FASTMNV2_WEIGHTS`` names other weights.
    Nothing is loaded for "imagenet" and the other names of published weights. Raises what ``load`` raises.
    """
    return model_cache.image_size(model_or_weights)


def info(weights: _Weights | Model = None) -> dict[str, Any]:
    """Details for a bug report: versions, instruction sets, threads, weights and build flags.

    In the result, ``weights`` describes the weights that the argument stands for (default "imagenet"): the dict
    ``Model.weights``, or ``{"error": message}``. Nothing is downloaded. ``weights_embedded`` tells whether the package
    was built with weights in it.
    """
    from fastmnv2.core.describe import describe

    return describe(weights)


def quantize(
    weights: _Weights,
    target: str | os.PathLike[str],
    images: Any,
    *,
    threads: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
    size: int | tuple[int, int] | None = None,
) -> "Report":
    """Quantise float weights to int8 and write a native file, for ``load(target, precision="int8")``.

    Args:
        weights: as for ``load``.
        target: the ``.safetensors`` file to write, atomically.
        images: calibration images, ``[n,height,width,3]`` as for ``embed``: at least 5; a few dozen are enough.
            Every fifth is held out for the report.
        threads: as for ``load``.
        progress: draw a bar on stderr if that is a terminal (``fastmnv2[cli]``). A function, called with the numbers
            of finished and of all layers, is deprecated.
        size: height and width of the network's images, as for ``load``.

    Returns:
        A ``fastmnv2.weights.int8.calibration.Report``: how close the result is to float32 on the held-out images.

    Raises:
        ValueError, TypeError: if ``images`` or ``size`` are not as above, or ``target`` is the file of ``weights``.
        OSError: if ``target`` can't be written.
        WeightsError, FileNotFoundError, WeightsUnavailable: as ``load``.
    """
    if isinstance(weights, (str, os.PathLike)) and os.path.realpath(weights) == os.path.realpath(target):
        raise ValueError(f"target: expected another file than that of the float weights, got {os.fspath(target)!r}")
    from fastmnv2.weights.int8.calibration import quantize as run
    from fastmnv2.weights.resolve import resolve

    return run(resolve(weights, precision="float32", size=size), target, images, threads=threads, progress=progress)


def __dir__() -> list[str]:
    """The public names only."""
    return [*__all__, *(name for name in _SUBMODULES if name not in __all__)]


def __getattr__(name: str) -> Any:
    """Import a module such as ``fastmnv2.image`` when it is first used."""
    if name in _SUBMODULES:
        return importlib.import_module(f"fastmnv2.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
