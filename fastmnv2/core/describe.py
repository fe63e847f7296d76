"""``fastmnv2.info()``: details for bug reports."""

import os
import platform
from typing import Any

import numpy as np

from fastmnv2._version import __version__
from fastmnv2.core import _engine, model_cache, threads
from fastmnv2.core.model import Model, available_isas, isa


def describe(weights: str | os.PathLike[str] | Model | None) -> dict[str, Any]:
    """See ``fastmnv2.info``."""
    from fastmnv2.weights import cache

    return {
        "version": __version__,
        "isa": _or_error(isa),
        "available_isas": list(available_isas()),
        "threads": threads.available(),
        "openmp": _engine.openmp,
        "weights": _describe_weights(weights),
        "weights_embedded": cache.embedded(),
        "build_flags": _engine.build_flags,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "environment": {name: value for name, value in sorted(os.environ.items()) if _is_relevant(name)},
    }


def _is_relevant(name: str) -> bool:
    return name.startswith(("FASTMNV2_", "OMP_", "GOMP_", "KMP_")) or name == "TFHUB_CACHE_DIR"


def _describe_weights(weights: str | os.PathLike[str] | Model | None) -> dict[str, Any]:
    if isinstance(weights, Model):
        return weights.weights
    try:
        return model_cache.model(weights, download=False).weights
    except (ValueError, OSError) as error:
        return {"error": str(error)}


def _or_error(function: Any) -> str:
    try:
        return str(function())
    except ValueError as error:
        return f"error: {error}"
