"""SavedModel folders: TF1 hub modules, TF-Hub's cache of them, and TF2 SavedModels; archives of them, and TF-Slim's."""

import dataclasses
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Protocol

from fastmnv2.core.errors import WeightsError
from fastmnv2.weights.files import file_sha256, open_file, read_file
from fastmnv2.weights.forms import bundle, checkpoint, frozen, tf_graph
from fastmnv2.weights.tensors import Source, is_range

if TYPE_CHECKING:
    from tarfile import TarFile

HANDLE = "https://tfhub.dev/google/imagenet/mobilenet_v2_075_96/feature_vector/2"
"""The module this package stands for."""

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_ARCHIVE_LIMIT = 192 << 20  # what an archive may unpack to; TF-Slim's largest, of 1.4 at 224, has 150 MB
# Of that, for headers, some 25 of them: tarfile limits neither their number nor their size, and on Pythons
# without the fix of CVE-2024-6232 takes time with the square of it, here 3 s.
_HEADERS_LIMIT = 40 << 10
_SIZES = frozenset({"size", "GNU.sparse.size", "GNU.sparse.realsize"})
_VARIABLES_LIMIT = 20_000
_MODULE = re.compile(r"saved_model\.pb|variables/variables\.(index|data-\d{5}-of-\d{5})")
_RELEASE = re.compile(r"([^/]+/)?([^/]+\.(index|data-\d{5}-of-\d{5})|[^/]+_frozen\.pb)")

RANGE_VARIABLE = "fastmnv2/input_range"
"""Of the SavedModels that this package writes: what black and white become before the network."""


def read(folder: Path, *, origin: str | None = None) -> Source:
    """A folder with ``saved_model.pb`` and ``variables/``."""
    prefix = folder / "variables" / "variables"
    for part in (folder / "saved_model.pb", prefix.with_suffix(".index")):
        if not part.is_file():
            raise WeightsError(f"{origin or folder}: expected a SavedModel, but there is no {part.name} in it")
    opened = bundle.Bundle(prefix)
    if OBJECT_GRAPH in opened.entries:
        found = read_objects(opened, "hub", origin or str(folder))
    else:
        found = checkpoint.read_bundle(opened, "hub", origin or str(folder))
    before = tf_graph.saved_model(read_file(folder / "saved_model.pb", tf_graph.SAVED_MODEL_LIMIT))
    if found.input_range is not None:  # it is one of our own, which says so
        return dataclasses.replace(found, size=before.size)
    return dataclasses.replace(found, input_range=before.input_range, input_error=before.input_error, size=before.size)


def read_archive(path: Path) -> Source:
    """Such a folder as ``.tar.gz``, or a release of TF-Slim. Only what is needed leaves it, for a private folder."""
    import tarfile

    with tempfile.TemporaryDirectory(prefix="fastmnv2-") as scratch, open_file(path) as raw:
        stream = _Bounded(_unzipped(raw))
        with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
            _unpack(archive, stream, Path(scratch), path)
        source = _unpacked(Path(scratch), path)
    return dataclasses.replace(source, origin=str(path), sha256=file_sha256(path))


def _unpacked(folder: Path, path: Path) -> Source:
    if (folder / "saved_model.pb").is_file():
        return read(folder, origin=str(path))
    if prefix := checkpoint.prefix_of(folder):
        return checkpoint.read(prefix)
    graphs = list(folder.glob("*_frozen.pb"))
    if len(graphs) == 1:
        return frozen.read(graphs[0])
    raise WeightsError(f"{path}: expected a SavedModel or one checkpoint in the archive, found neither")


def _unpack(archive: "TarFile", stream: "_Bounded", folder: Path, path: Path) -> None:
    (folder / "variables").mkdir()
    for member in archive:
        name = str(PurePosixPath(member.name))  # "./variables/…" and "variables/…" are the same
        # Extended headers that set sizes: of all members behind them, or others than the member has.
        if archive.pax_headers:
            raise WeightsError(f"{path}: a global header stands before {name}, expected none")
        if member.issparse() or member.size < 0 or _SIZES.intersection(member.pax_headers):
            raise WeightsError(f"{path}: {name} is a sparse file or has a size of another kind, expected whole ones")
        if member.isreg():  # what stands behind other members counts as headers
            stream.expect(archive.offset - member.offset_data)
        if not member.isreg() or not (_MODULE.fullmatch(name) or _RELEASE.fullmatch(name)):
            continue
        file = archive.extractfile(member)
        place = folder / (name if _MODULE.fullmatch(name) else PurePosixPath(name).name)
        if file is None or place.exists():
            raise WeightsError(f"{path}: {name} is in the archive twice")
        with place.open("wb") as target:
            shutil.copyfileobj(file, target, 1 << 20)


def _unzipped(raw: IO[bytes]) -> "_Stream":
    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return _Gunzipped(raw) if zipped else raw


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Gunzipped:
    """What the first member of a gzip file unpacks to. Python's gzip goes through millions of empty ones, slowly."""

    def __init__(self, raw: IO[bytes]) -> None:
        import zlib

        self._raw = raw
        self._unpack = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0 and not self._unpack.eof:
            packed = self._unpack.unconsumed_tail or self._raw.read(1 << 16)
            if not packed:
                raise ValueError("the archive is truncated")
            parts.append(self._unpack.decompress(packed, size))
            size -= len(parts[-1])
        return b"".join(parts)


class _Bounded:
    """A stream that refuses to give more than was expected, and more than ``_ARCHIVE_LIMIT`` bytes in all."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._left = _ARCHIVE_LIMIT
        self._expected = _HEADERS_LIMIT

    def expect(self, size: int) -> None:
        """Expect that many bytes beyond what the archive's headers may have in all."""
        self._expected += size

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        self._expected -= len(data)
        if self._left < 0:
            raise ValueError(f"the archive unpacks to more than {_ARCHIVE_LIMIT} bytes")
        if self._expected < 0:
            raise ValueError(f"the archive's headers have more than {_HEADERS_LIMIT} bytes")
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


def read_objects(opened: bundle.Bundle, form: str, origin: str) -> Source:
    """A bundle of TensorFlow 2's: a SavedModel's, or what Keras 2 wrote by ``save_weights``."""
    from fastmnv2.weights.forms import keras_names

    names = _variable_names(opened.string(OBJECT_GRAPH))  # key in the bundle: the variable's own name
    names = {key: name for key, name in names.items() if key in opened.entries and "/.OPTIMIZER_SLOT/" not in key}
    slim = {key: plain for key, name in names.items() if (plain := checkpoint.slim_name(name))}
    notes: list[str] = []
    if slim:
        tensors = {slim[key]: array for key, array in opened.tensors(slim).items()}
    else:
        keys = {name: key for key, name in reversed(names.items())}
        plain_of = {keys[name]: plain for plain, name in keras_names.plain_paths(keys).items()}
        plain_of |= {key: name for key, name in names.items() if key not in plain_of}
        arrays = opened.tensors(key for key, name in plain_of.items() if keras_names.is_variable(name))
        tensors, notes = keras_names.from_variables(((plain_of[key], array) for key, array in arrays.items()), origin)
    told = [key for key, name in names.items() if name == RANGE_VARIABLE and opened.entries[key].shape == (2,)]
    edges = opened.tensors(told[:1]).get(told[0]) if told else None
    said = (float(edges[0]), float(edges[1])) if edges is not None and is_range(*edges.tolist()) else None
    what = "a TF2 SavedModel" if form == "hub" else "variables by TensorFlow 2's object graph"
    return Source(form, origin, opened.sha256(), tensors, (what, *notes), input_range=said)


def _variable_names(graph: bytes) -> dict[str, str]:
    """Checkpoint key to variable name: TrackableObjectGraph.nodes[].attributes[] (trackable_object_graph.proto)."""
    names: dict[str, str] = {}
    for number, node in bundle.fields(graph):
        if number != 1 or not isinstance(node, bytes):
            continue
        for part, attribute in bundle.fields(node):
            if part != 2 or not isinstance(attribute, bytes):
                continue
            found = {field: value for field, value in bundle.fields(attribute) if isinstance(value, bytes)}
            if len(names) == _VARIABLES_LIMIT:
                raise ValueError(f"the object graph has more than {_VARIABLES_LIMIT} variables")
            if 2 in found and 3 in found:
                names[found[3].decode()] = found[2].decode()
    return names
