"""Keras weights of ``keras.applications.MobileNetV2(alpha=0.75)``, alone or inside a fine-tuned model.

Three containers: legacy HDF5 (``<layer>/<layer>/kernel:0``), Keras 3 HDF5 (``layers/conv2d_7/vars/0``, the
layer's name being an attribute of ``vars``) and ``.keras``, a zip with the latter in it.
"""

import json
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.errors import WeightsError
from fastmnv2.network import EPSILON
from fastmnv2.weights.files import file_sha256, open_file
from fastmnv2.weights.forms import hdf5, keras_names
from fastmnv2.weights.tensors import Source

# What a malformed file may make us do. The network's variables have 11 MB, its configuration 100 KB.
_ARCHIVE_LIMIT = 96 << 20
_DIRECTORY_LIMIT = 64 << 10
_CONFIG_LIMIT = 2 << 20
_NAME_LIMIT = 200


def read(path: Path) -> Source:
    """An HDF5 file: legacy weights, a whole legacy model, or ``.weights.h5``."""
    with open_file(path) as file:
        tensors, notes = _read_hdf5(file, str(path))
    return Source("keras", str(path), file_sha256(path), tensors, tuple(notes))


def read_archive(path: Path) -> Source:
    """A ``.keras`` file: a zip with ``config.json`` and ``model.weights.h5``."""
    import tempfile
    import zipfile

    with open_file(path) as file, tempfile.TemporaryFile() as weights:
        _check_directory(file, path)
        archive = zipfile.ZipFile(file)
        for name in ("config.json", "model.weights.h5"):
            if archive.namelist().count(name) != 1:
                raise WeightsError(f"{path}: expected one {name} in the archive, as a .keras file has")
            # zipfile bounds what these two unpack to at once, and not what the others do.
            if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise WeightsError(f"{path}: {name} is compressed in another way than stored or deflated")
        with archive.open("config.json") as member:
            config = member.read(_CONFIG_LIMIT + 1)
        notes = _check_config(config, str(path))
        with archive.open("model.weights.h5") as member:
            while chunk := member.read(1 << 20):
                weights.write(chunk)
                if weights.tell() > _ARCHIVE_LIMIT:
                    raise WeightsError(f"{path}: model.weights.h5 unpacks to more than {_ARCHIVE_LIMIT} bytes")
        weights.seek(0)
        tensors, more = _read_hdf5(weights, str(path))
    return Source("keras", str(path), file_sha256(path), tensors, (*notes, *more))


def _check_directory(file: IO[bytes], path: Path) -> None:
    """Refuse a zip with more entries than a .keras file has: zipfile would make an object of each of millions."""
    size = file.seek(0, 2)
    file.seek(max(0, size - (1 << 16) - 22 - 20))  # a comment, the record below, and before it zip64's locator
    tail = file.read()
    end = tail.rfind(b"PK\5\6")  # the end of central directory record; its field at 12 is the directory's size
    if end < 0 or end + 22 > len(tail):
        raise WeightsError(f"{path}: expected a .keras file, but the archive has no directory")
    directory = int.from_bytes(tail[end + 12 : end + 16], "little")
    if directory > _DIRECTORY_LIMIT or tail[max(0, end - 20) : end].startswith(b"PK\6\7"):
        raise WeightsError(
            f"{path}: the archive's directory has {directory} bytes, expected at most {_DIRECTORY_LIMIT}"
        )


def _read_hdf5(file: IO[bytes], origin: str) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    config, variables, others = hdf5.read(file, origin)
    notes = _check_config(config, origin) if config is not None else []
    tensors, top_notes = keras_names.from_variables(variables.items(), origin)
    if others:
        shown = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
        notes.append(f"{len(others)} other layers are ignored: {shown}")
    return tensors, notes + top_notes


def _check_config(text: str | bytes, origin: str) -> list[str]:
    """Batch norms must have the epsilon that is folded in; a rescaling in the model is only noted."""
    if len(text) > _CONFIG_LIMIT:
        raise WeightsError(f"{origin}: the model's configuration has more than {_CONFIG_LIMIT} bytes")
    try:
        pending: list[Any] = [json.loads(text)]
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{origin}: the model's configuration is not JSON: {error}") from error
    notes = []
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        if not isinstance(node, dict):
            continue
        pending += node.values()
        config = node.get("config")
        name = config.get("name") if isinstance(config, dict) else None
        if not isinstance(config, dict) or not isinstance(name, str) or len(name) > _NAME_LIMIT:
            continue
        epsilon = config.get("epsilon")
        if (
            node.get("class_name") == "BatchNormalization"
            and keras_names.slim_scope(name)
            and not (isinstance(epsilon, (int, float)) and abs(epsilon - EPSILON) <= 1e-9)
        ):
            raise WeightsError(f"{origin}: {name}: expected epsilon {EPSILON}, got {epsilon!r}")
        if node.get("class_name") == "Rescaling":
            notes.append(f"the layer {name} is left to embed, which takes [0,1] or uint8 images")
    return notes
