"""MobileNet V2 0.75/96 image feature vectors on the CPU, fast, with numpy alone.

>>> import fastmnv2
>>> features = fastmnv2.embed(images)  # [n,96,96,3] in [0,1] -> [n,1280]
"""

import importlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2 import kept, network
from fastmnv2._version import __version__
from fastmnv2.errors import WeightsError, WeightsUnavailable
from fastmnv2.model import Model, available_isas, isa

if TYPE_CHECKING:
    from keras import Model as KerasModel

    from fastmnv2 import image as image

__all__ = [
    "Model",
    "WeightsError",
    "WeightsUnavailable",
    "__version__",
    "available_isas",
    "embed",
    "get_expected_image_size",
    "image",
    "info",
    "isa",
    "load",
]

_Weights = str | os.PathLike[str] | None


def load(
    weights: "_Weights | KerasModel" = None,
    *,
    threads: int | None = None,
    download: bool = True,
    input_range: tuple[float, float] | None = None,
    head: bool = True,
    classes: Sequence[str] | None = None,
) -> Model:
    """Load weights and make a model of them.

    Args:
        weights: a path to any of the five forms (TF1 hub module folder or archive, TF-Slim checkpoint,
            Keras weights, TFLite, native .safetensors), told apart by content; a TF-Hub URL; "imagenet",
            the default; "untrained": seeded weights with meaningless features, for timings and tests; or a
            Keras model, such as one that was trained with ``fastmnv2.keras``.
        threads: default for the model's calls; None for every CPU that this process may use.
        download: whether "imagenet" may be downloaded where it is not found.
        input_range: what black and white become before the network's first convolution, for files that don't say
            and are not of the usual (-1, 1): (0, 1) for a network that was trained on images in [0,1]. Layers in
            a Keras file that say it (Rescaling, arithmetic) are honoured without. What ``embed`` takes is the same.
        head: whether to load what stands behind the pooling in a Keras file, for ``Model.predict``.
        classes: names of the head's classes, in order.

    "imagenet" is looked for in ``FASTMNV2_WEIGHTS`` (a path), in the installed wheel, in TF-Hub's cache and the
    user's cache, and is else downloaded.

    Raises:
        FileNotFoundError: there is no such path.
        WeightsError: the file is malformed, of another network, or holds values that are not finite; or a layer
            before the network or behind it can't be run, which the message names.
        TypeError, ValueError: ``input_range`` or ``classes`` are not as above.
        WeightsUnavailable: "imagenet" weights are nowhere to be had; the message names the ways out.
    """
    return kept.load(weights, threads=threads, download=download, input_range=input_range, head=head, classes=classes)


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
    model = weights if isinstance(weights, Model) else kept.model(weights)
    return model.embed(images, out=out, threads=threads, normalize=normalize)


def get_expected_image_size() -> tuple[int, int]:
    """Height and width that ``embed`` takes, in pixels."""
    return (network.SIZE, network.SIZE)


def info(weights: _Weights | Model = None) -> dict[str, Any]:
    """What a bug report needs: versions, instruction sets, threads, weights and build flags.

    ``weights`` tells what ``weights`` (default "imagenet") stand for now, without downloading anything:
    a dict of what ``Model.weights`` tells, or ``error``; ``weights_embedded``,
    whether the package was built with weights in it.
    """
    from fastmnv2.describe import describe

    return describe(weights)


def __getattr__(name: str) -> Any:
    """``fastmnv2.image``, imported when it is first used."""
    if name == "image":
        return importlib.import_module("fastmnv2.image")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
