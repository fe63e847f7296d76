"""Weights files, one module a form. ``read`` knows the form by content."""

import os
from pathlib import Path

from fastmnv2.errors import WeightsError
from fastmnv2.weights.source import Source

__all__ = ["Source", "read"]

FORMS = (
    "a TF1 hub module (folder or .tar.gz), a TF-Slim checkpoint, Keras weights (.h5, .weights.h5, .keras), "
    "a TFLite file, or a native .safetensors"
)


def read(path: str | os.PathLike[str]) -> Source:
    """Read a weights file or folder of any of the five forms.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        WeightsError: it is none of the forms, or malformed; the message names the path and what is wrong.
        ImportError: the form needs an optional package; the message says which to install.
    """
    from fastmnv2.weights import checkpoint

    place = Path(path)
    prefix = checkpoint.prefix_of(place)
    if prefix is None and not place.exists():
        raise FileNotFoundError(f"there are no weights at {str(place)!r}: expected {FORMS}")
    try:
        return _read(place, prefix)
    except (WeightsError, ImportError, MemoryError):
        raise
    except Exception as error:  # whatever a library makes of a malformed file
        raise WeightsError(f"{place}: {error or type(error).__name__}") from error


def _read(path: Path, prefix: Path | None) -> Source:
    from fastmnv2.weights import checkpoint, hub

    if path.is_dir() and (path / "saved_model.pb").is_file():
        return hub.read(path)
    if prefix is not None:
        return checkpoint.read(prefix)
    if path.is_dir():
        raise WeightsError(f"{path}: expected a folder with saved_model.pb or one checkpoint, found neither")
    if not path.is_file():
        raise WeightsError(f"{path}: expected a file or folder with weights, got something else")

    with path.open("rb") as file:
        head = file.read(512)
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        from fastmnv2.weights import keras

        return keras.read(path)
    if head[:4] == b"PK\x03\x04":
        from fastmnv2.weights import keras

        return keras.read_archive(path)
    if head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar":
        return hub.read_archive(path)
    if head[4:8] == b"TFL3":
        from fastmnv2.weights import tflite

        return tflite.read(path)
    if head[8:9] == b"{":
        from fastmnv2.weights import native

        return native.read(path)
    raise WeightsError(f"{path}: expected {FORMS}; it starts with {head[:8]!r}")
