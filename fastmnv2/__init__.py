"""MobileNet V2 0.75/96 image feature vectors on the CPU, fast, with numpy alone.

>>> import fastmnv2
>>> features = fastmnv2.embed(images)  # [n,96,96,3] in [0,1] -> [n,1280]
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2 import kept
from fastmnv2._version import __version__
from fastmnv2.errors import WeightsError, WeightsUnavailable
from fastmnv2.model import Model, available_isas, isa

if TYPE_CHECKING:
    from fastmnv2 import image as image

__all__ = [
    "Model",
    "WeightsError",
    "WeightsUnavailable",
    "__version__",
    "available_isas",
    "embed",
    "get_expected_image_size",
    "info",
    "isa",
    "load",
]

_Weights = str | os.PathLike[str] | None


def load(weights: _Weights = None, *, threads: int | None = None) -> Model:
    """Load weights and make a model of them.

    Args:
        weights: a path to any of the five forms (TF1 hub module folder or archive, TF-Slim checkpoint,
            Keras weights, TFLite, native .safetensors), told apart by content; a TF-Hub URL; "imagenet",
            the default; or "untrained": seeded weights with meaningless features, for timings and tests.
        threads: default for the model's calls; None for every CPU that this process may use.

    "imagenet" is looked for in ``FASTMNV2_WEIGHTS`` (a path), in the installed wheel, in the user's cache,
    and is else downloaded.

    Raises:
        FileNotFoundError: there is no such path.
        WeightsError: the file is malformed, of another network, or holds values that are not finite.
        WeightsUnavailable: "imagenet" weights are nowhere to be had; the message names the ways out.
    """
    return kept.load(weights, threads)


def embed(
    images: Any,
    *,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
    weights: _Weights | Model = None,
) -> NDArray[np.float32]:
    """Feature vectors of images: ``load(weights).embed(images)`` with the model kept for the next call.

    See ``Model.embed`` for the arguments and what is returned, and ``load`` for ``weights``.
    """
    if isinstance(weights, Model):
        return weights.embed(images, out=out, threads=threads)
    return kept.model(weights).embed(images, out=out, threads=threads)


def get_expected_image_size() -> tuple[int, int]:
    """Height and width that ``embed`` takes, in pixels."""
    return (96, 96)


def info(weights: _Weights | Model = None) -> dict[str, Any]:
    """What a bug report needs: versions, instruction sets, threads, weights and build flags.

    ``weights`` tells what ``weights`` (default "imagenet") stand for now, without downloading anything:
    a dict of ``form``, ``origin``, ``sha256``, ``has_logits`` and ``notes``, or ``error``; ``weights_embedded``,
    whether the package was built with weights in it.
    """
    from fastmnv2.describe import describe

    return describe(weights)


def __getattr__(name: str) -> Any:
    """``fastmnv2.image``, imported when it is first used."""
    if name == "image":
        return importlib.import_module("fastmnv2.image")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
