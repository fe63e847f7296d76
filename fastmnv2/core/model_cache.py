"""Loading models, and caching the models that ``fastmnv2.embed`` loads for later calls."""

import os
from typing import Any

from fastmnv2.core.arguments import Precision
from fastmnv2.core.model import Model

_Weights = str | os.PathLike[str] | None

# The keys hold the weights and all settings that change their meaning.
_models: dict[tuple[Any, ...], Model] = {}
_VARIABLES = ("FASTMNV2_WEIGHTS", "FASTMNV2_CACHE_DIR", "TFHUB_CACHE_DIR")
_LIMIT = 4  # models in the cache


def load(weights: Any, *, threads: int | None = None, **reading: Any) -> Model:
    """See ``fastmnv2.load``."""
    from fastmnv2.weights.resolve import resolve

    return Model(resolve(weights, **reading), threads=threads)


def image_size(model_or_weights: _Weights | Model) -> tuple[int, int]:
    """See ``fastmnv2.get_expected_image_size``."""
    if isinstance(model_or_weights, Model):
        return model_or_weights.network.size
    if isinstance(model_or_weights, str) or model_or_weights is None:
        from fastmnv2.weights.resolve import network_of

        if network := network_of(model_or_weights):
            return network.size
    return model(model_or_weights).network.size


def _folder(name: str | None) -> str:
    """The working directory if ``name`` may be a relative path, whose meaning depends on it; otherwise ""."""
    if not name or name in ("imagenet", "untrained") or "://" in name or os.path.isabs(name):
        return ""
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return ""


def model(weights: _Weights, *, download: bool = True, precision: Precision | None = None, size: Any = None) -> Model:
    """A model from the cache, or a newly loaded one. The cache holds the last four models that were loaded."""
    name = weights if weights is None else os.fspath(weights)
    places = tuple(map(os.environ.get, _VARIABLES))
    isa = os.environ.get("FASTMNV2_ISA")
    key = (name, isinstance(weights, str), precision, size, isa, *places, *map(_folder, (name, *places)))
    found = _models.get(key)
    if found is None:
        found = load(weights, download=download, precision=precision, size=size)
        while len(_models) >= _LIMIT:
            _models.pop(next(iter(_models)), None)
        _models[key] = found
    return found
