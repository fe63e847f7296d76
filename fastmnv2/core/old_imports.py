"""Keeps old import paths and constants working, with a DeprecationWarning."""

import sys
import types
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any

_MOVED = {
    "fastmnv2.errors": "fastmnv2.core.errors",
    "fastmnv2.model": "fastmnv2.core.model",
    "fastmnv2.network": "fastmnv2.core.network",
    "fastmnv2.post_training": "fastmnv2.weights.int8.calibration",
    "fastmnv2.profile": "fastmnv2.core.profile",
}


_CONSTANTS = {
    "CLASSES": "classes",
    "ENDPOINTS": "endpoints",
    "EPSILON": "epsilon",
    "FEATURES": "features",
    "LAYERS": "layers",
    "LOGITS": "logits",
    "PROJECTIONS": "projections",
    "SIZE": "height",
}
"""Old constants of 0.75/96, and the attributes of ``Network`` that replace them."""


class _Finder:
    """Imports modules under their old names, which look up every attribute in the new modules.

    It has no base class: ``importlib.abc`` takes longer to import than this package.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in _MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        new = _MOVED[module.__name__]
        warnings.warn(f"{module.__name__} has moved to {new}", DeprecationWarning, stacklevel=2)
        __import__(new)
        target = sys.modules[new]

        def look_up(name: str) -> Any:
            try:
                return getattr(target, name)
            except AttributeError:
                if name in _CONSTANTS and new == "fastmnv2.core.network":
                    return getattr(target.DEFAULT, _CONSTANTS[name])
                raise

        module.__getattr__ = look_up  # type: ignore[method-assign]


def install() -> None:
    """Make the old import paths work. Nothing is imported until one of them is used."""
    sys.meta_path.append(_Finder())
