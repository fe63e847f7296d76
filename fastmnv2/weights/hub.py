"""SavedModel folders: TF1 hub modules, their archives and TF-Hub's cache of them, and TF2 SavedModels."""

import dataclasses
import hashlib
import os
import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from fastmnv2.errors import WeightsError
from fastmnv2.weights import bundle, checkpoint
from fastmnv2.weights.source import Source, file_sha256

if TYPE_CHECKING:
    from tarfile import TarFile

HANDLE = "https://tfhub.dev/google/imagenet/mobilenet_v2_075_96/feature_vector/2"
"""The module this package stands for."""

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_ARCHIVE_LIMIT = 96 << 20  # what an archive may unpack to; the module itself has 6 MB
_WANTED = re.compile(r"saved_model\.pb|variables/variables\.(index|data-\d{5}-of-\d{5})")


def read(folder: Path, *, origin: str | None = None) -> Source:
    """A folder with ``saved_model.pb`` and ``variables/``."""
    prefix = folder / "variables" / "variables"
    for part in (folder / "saved_model.pb", prefix.with_suffix(".index")):
        if not part.is_file():
            raise WeightsError(f"{origin or folder}: expected a SavedModel, but there is no {part.name} in it")
    entries, _ = bundle.read_index(prefix.with_name(prefix.name + ".index"))
    if _OBJECT_GRAPH in entries:
        return _read_tf2(prefix, origin or str(folder))
    return checkpoint.read(prefix, form="hub", origin=origin or str(folder))


def read_archive(path: Path) -> Source:
    """The same folder as ``.tar.gz``. Only the files that are needed leave it, for a private folder."""
    import tarfile

    with (
        tempfile.TemporaryDirectory(prefix="fastmnv2-") as scratch,
        path.open("rb") as raw,
        tarfile.open(fileobj=_Bounded(_unzipped(raw)), mode="r|") as archive,  # type: ignore[call-overload]
    ):
        _unpack(archive, Path(scratch), path)
        source = read(Path(scratch), origin=str(path))
    return dataclasses.replace(source, sha256=file_sha256(path))


def _unpack(archive: "TarFile", folder: Path, path: Path) -> None:
    (folder / "variables").mkdir()
    for member in archive:
        name = str(PurePosixPath(member.name))  # "./variables/…" and "variables/…" are the same
        if not member.isreg() or not _WANTED.fullmatch(name):
            continue
        file = archive.extractfile(member)
        if file is None or (folder / name).exists():
            raise WeightsError(f"{path}: {name} is in the archive twice")
        (folder / name).write_bytes(file.read())


def _unzipped(raw: IO[bytes]) -> IO[bytes]:
    import gzip

    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[return-value]


class _Bounded:
    """A stream that refuses to give more than ``_ARCHIVE_LIMIT`` bytes, or to be asked for more at once."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = _ARCHIVE_LIMIT

    def read(self, size: int) -> bytes:
        if size > self._left:
            raise ValueError(f"the archive unpacks to more than {_ARCHIVE_LIMIT} bytes")
        data = self._stream.read(size)
        self._left -= len(data)
        return data


def find_cached(handle: str) -> Path | None:
    """Folder of a TF-Hub handle in ``TFHUB_CACHE_DIR``, None where there is none.

    TF-Hub names it by the SHA-1 of the handle as its caller wrote it.
    """
    cache = os.environ.get("TFHUB_CACHE_DIR")
    if not cache:
        return None
    plain = re.sub(r"[?&]tf-hub-format=compressed$", "", handle).rstrip("/")
    for spelling in dict.fromkeys((handle, plain, plain + "/", plain + "?tf-hub-format=compressed")):
        folder = Path(cache, hashlib.sha1(spelling.encode()).hexdigest())
        if (folder / "saved_model.pb").is_file():
            return folder
    return None


# ---- TF2: tensors have keys by object path; the object graph knows the variables' names ----------------


def _read_tf2(prefix: Path, origin: str) -> Source:
    from fastmnv2.weights import keras

    graph = bundle.read_string(prefix, _OBJECT_GRAPH)
    names = _variable_names(graph or b"")  # key in the bundle: the variable's own name
    slim = {key: plain for key, name in names.items() if (plain := checkpoint.slim_name(name))}
    notes: list[str] = []
    if slim:
        tensors = {slim[key]: array for key, array in bundle.read_tensors(prefix, slim.__contains__).items()}
    else:
        arrays = bundle.read_tensors(prefix, lambda key: keras.is_variable(names.get(key, "")))
        tensors, notes = keras.from_variables(((names[key], array) for key, array in arrays.items()), origin)
    return Source("hub", origin, bundle.sha256(prefix), tensors, ("a TF2 SavedModel", *notes))


def _variable_names(graph: bytes) -> dict[str, str]:
    """Checkpoint key to variable name: TrackableObjectGraph.nodes[].attributes[] (trackable_object_graph.proto)."""
    names = {}
    for number, node in bundle.fields(graph):
        if number != 1 or not isinstance(node, bytes):
            continue
        for part, attribute in bundle.fields(node):
            if part != 2 or not isinstance(attribute, bytes):
                continue
            found = {field: value for field, value in bundle.fields(attribute) if isinstance(value, bytes)}
            if 2 in found and 3 in found:
                names[found[3].decode()] = found[2].decode()
    return names
