"""SavedModel folders (TF1 hub modules, TF-Hub's cache, TF2 SavedModels), their archives, and TF-Slim's archives."""

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
from fastmnv2.weights.forms import bundle, checkpoint, frozen, object_graph, tf_graph
from fastmnv2.weights.tensors import Source

if TYPE_CHECKING:
    from tarfile import TarFile

HANDLE = "https://tfhub.dev/google/imagenet/mobilenet_v2_075_96/feature_vector/2"
"""The hub module of the "imagenet" weights."""

_ARCHIVE_LIMIT = 192 << 20  # unpacked bytes of an archive; TF-Slim's largest, 1.4 at 224, has 150 MB
# Bytes of headers; an archive has about 25 headers. tarfile limits neither their number nor their size. Without the fix
# of CVE-2024-6232, its time grows with the square of their size, to 3 s at this limit.
_HEADERS_LIMIT = 40 << 10
_SIZES = frozenset({"size", "GNU.sparse.size", "GNU.sparse.realsize"})
_MODULE = re.compile(r"saved_model\.pb|variables/variables\.(index|data-\d{5}-of-\d{5})")
_RELEASE = re.compile(r"([^/]+/)?([^/]+\.(index|data-\d{5}-of-\d{5})|[^/]+_frozen\.pb)")


def read(folder: Path, *, origin: str | None = None) -> Source:
    """Read a folder with ``saved_model.pb`` and ``variables/``."""
    prefix = folder / "variables" / "variables"
    for part in (folder / "saved_model.pb", prefix.with_suffix(".index")):
        if not part.is_file():
            raise WeightsError(f"{origin or folder}: expected a SavedModel, but there is no {part.name} in it")
    opened = bundle.Bundle(prefix)
    if object_graph.KEY in opened.entries:
        found = object_graph.read(opened, "hub", origin or str(folder))
    else:
        found = checkpoint.read_bundle(opened, "hub", origin or str(folder))
    before = tf_graph.saved_model(read_file(folder / "saved_model.pb", tf_graph.SAVED_MODEL_LIMIT))
    if found.input_range is not None:  # one of our own exports, which records the range
        return dataclasses.replace(found, size=before.size)
    return dataclasses.replace(found, input_range=before.input_range, input_error=before.input_error, size=before.size)


def read_archive(path: Path) -> Source:
    """Read a SavedModel's or TF-Slim release's archive. Only needed members are unpacked, to a private folder."""
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
        # Extended headers can change sizes, of all later members or of one member.
        if archive.pax_headers:
            raise WeightsError(f"{path}: expected no global header, got one before {name}")
        if member.issparse() or member.size < 0 or _SIZES.intersection(member.pax_headers):
            raise WeightsError(f"{path}: {name}: expected a plain file, got a sparse one or an extended size")
        if member.isreg():  # the content of other kinds of members counts as headers
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
    """Unpacks only a gzip file's first member. Python's gzip would slowly read millions of empty members."""

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
    """A stream that raises ValueError beyond the expected bytes, and beyond ``_ARCHIVE_LIMIT`` in total."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._left = _ARCHIVE_LIMIT
        self._expected = _HEADERS_LIMIT

    def expect(self, size: int) -> None:
        """Expect this many bytes in addition to the headers' limit."""
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
    """The folder of a TF-Hub handle in ``TFHUB_CACHE_DIR``; None if there is none.

    TF-Hub names the folder by the SHA-1 of the handle exactly as its caller wrote it.
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
