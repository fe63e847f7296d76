"""Read weights files. ``read`` recognises a file's form by its content; ``forms`` has a module for each form."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from fastmnv2.core.arguments import Precision
from fastmnv2.core.errors import WeightsError, is_this_machines
from fastmnv2.core.head import named
from fastmnv2.weights.files import exists, open_file
from fastmnv2.weights.tensors import Source

__all__ = ["Source", "read"]

FORMS = (
    "a hub module or SavedModel (folder or .tar.gz), a TF-Slim checkpoint, release (.tgz) or frozen graph (.pb), "
    "Keras weights (.h5, .weights.h5, .keras), a TFLite file, a Hugging Face folder, or a native .safetensors"
)


def read(path: str | os.PathLike[str], precision: Precision = "float32") -> Source:
    """Read a weights file or folder of any form.

    With precision "int8" the result is a ``Quantised`` with the integers of an 8-bit file.

    Raises:
        FileNotFoundError: if nothing exists at ``path``.
        WeightsError: if the form is unknown or the file is malformed; the message names the path and what is wrong.
        OSError: if the disk has no room to unpack an archive, or no more files can be opened.
        ImportError: if the form needs an optional package; the message says which to install.
    """
    place = Path(path)
    if not exists(place) and not _is_prefix(place):
        raise FileNotFoundError(f"there are no weights at {str(place)!r}: expected {FORMS}")
    with refusing(place):
        found = _quantised(place) if precision == "int8" else _read(place)
        return _with_names(found, place)


def _with_names(found: Source, path: Path) -> Source:
    """Take the image size from the file's name and the class names from ``labels.txt`` if the file lacks them."""
    if found.form == "native":
        return found
    from fastmnv2.weights import names

    if found.size is None and (size := names.size_in(path)):
        found = dataclasses.replace(found, size=size)
    if found.head is not None and found.head.classes is None:
        classes = names.labels_next_to(path, found.head.count)
        if classes:
            notes = (*found.notes, f"the names of the classes are from {names.LABELS} in the same folder")
            found = dataclasses.replace(found, head=named(found.head, classes), notes=notes)
    return found


@contextlib.contextmanager
def refusing(origin: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever a reader or its library raises on a malformed file into a WeightsError that names ``origin``.

    Errors that are not the file's fault pass through: out of memory, disk full, too many open files.
    """
    try:
        yield
    except (WeightsError, ImportError, MemoryError):
        raise
    except Exception as error:
        if is_this_machines(error):
            raise
        raise WeightsError(f"{origin}: {error or type(error).__name__}") from error


def _is_prefix(path: Path) -> bool:
    from fastmnv2.weights.forms import checkpoint

    return checkpoint.prefix_of(path) is not None


def _quantised(path: Path) -> Source:
    head = _head(path)
    found: Source | None = None
    if head[4:8] == b"TFL3":
        from fastmnv2.weights.forms import tflite_int8

        return tflite_int8.read(path)
    if head[4:9] == b"\0\0\0\0{":
        from fastmnv2.weights.forms import native

        found = native.read(path)
    if found is None or found.quantised is None:
        raise WeightsError(
            f"{path}: expected 8-bit weights, in a TFLite or native file; `fastmnv2 quantize` makes them from float "
            "weights"
        )
    return found


def _head(path: Path) -> bytes:
    """The first bytes of a regular file; empty for anything else."""
    if not path.is_file():
        return b""
    with open_file(path) as file:
        return file.read(min(512, os.fstat(file.fileno()).st_size))


def _read(path: Path) -> Source:
    head = _head(path)
    if head[4:9] == b"\0\0\0\0{":  # first, because the native form must load fast, without the other forms' imports
        from fastmnv2.weights.forms import native

        if not native.is_own(path):
            from fastmnv2.weights.forms import huggingface

            return huggingface.read_file_alone(path)
        found = native.read(path)
        return found.quantised.dequantised() if found.quantised else found
    from fastmnv2.weights.forms import checkpoint, hub

    prefix = checkpoint.prefix_of(path)
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return hub.read(path)
    if prefix is not None:
        return checkpoint.read(prefix)
    if path.is_dir():
        from fastmnv2.weights.forms import huggingface

        if (path / huggingface.CONFIG).is_file():
            return huggingface.read(path)
        raise WeightsError(
            f"{path}: expected a folder with saved_model.pb, one checkpoint, or config.json and model.safetensors, "
            "found none of them"
        )
    path.stat()  # raises the reason if the path is not accessible
    if not path.is_file():
        raise WeightsError(f"{path}: expected a file or folder with weights, got something else")
    return _read_file(path, head)


def _read_file(path: Path, head: bytes) -> Source:
    """Read a regular file, whose first bytes are ``head``."""
    from fastmnv2.weights.forms import hub

    if head[:8] == b"\x89HDF\r\n\x1a\n":
        from fastmnv2.weights.forms import keras

        return keras.read(path)
    if head[:4] == b"PK\x03\x04":
        from fastmnv2.weights.forms import keras

        return keras.read_archive(path)
    if head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar":
        return hub.read_archive(path)
    if head[4:8] == b"TFL3":
        from fastmnv2.weights.forms import tflite

        return tflite.read(path)
    if path.name == "saved_model.pb":
        return hub.read(path.parent)
    if head[:1] == b"\x0a":  # every GraphDef begins with the tag of its first node
        from fastmnv2.weights.forms import frozen

        return frozen.read(path)
    raise WeightsError(f"{path}: expected {FORMS}; it starts with {head[:8]!r}")
