"""Loading models, and keeping those that ``fastmnv2.embed`` loads for its next call."""

import os
from typing import Any

from fastmnv2.model import Model

_Weights = str | os.PathLike[str] | None

# By weights and by the settings that change what they mean.
_models: dict[tuple[Any, ...], Model] = {}
_KEPT = 4


def load(weights: Any, *, threads: int | None = None, **reading: Any) -> Model:
    """See ``fastmnv2.load``."""
    from fastmnv2.weights.resolve import resolve

    return Model(resolve(weights, **reading), threads=threads)


def model(weights: _Weights, *, download: bool = True, precision: str = "float32") -> Model:
    """The same, loaded once; the last four are kept."""
    environ = os.environ
    name = weights if weights is None else os.fspath(weights)
    key = (name, precision, environ.get("FASTMNV2_WEIGHTS"), environ.get("FASTMNV2_ISA"))
    found = _models.get(key)
    if found is None:
        found = load(weights, download=download, precision=precision)
        while len(_models) >= _KEPT:
            _models.pop(next(iter(_models)), None)
        _models[key] = found
    return found
