"""Files in and out of the command line: finding images, writing feature tables."""

import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmnv2.image import SUFFIXES

FORMATS = (".npy", ".npz", ".csv", ".parquet")
_FEATURES = 1280


def find_images(patterns: Iterable[str], *, recursive: bool = True) -> tuple[list[str], list[str]]:
    """(image files, patterns that matched nothing) for files, folders and globs, sorted within each pattern.

    A file that is named is taken whatever its suffix; folders and globs give files with an image's suffix.
    """
    found: dict[str, None] = {}
    empty = []
    for pattern in patterns:
        if os.path.isdir(pattern):
            walk = Path(pattern).rglob("*") if recursive else Path(pattern).glob("*")
            matches = sorted(str(path) for path in walk if path.suffix.lower() in SUFFIXES and path.is_file())
        elif os.path.exists(pattern):
            matches = [pattern]
        else:
            matches = sorted(
                path
                for path in glob.glob(pattern, recursive=True)
                if Path(path).suffix.lower() in SUFFIXES and os.path.isfile(path)
            )
        if not matches:
            empty.append(pattern)
        found.update(dict.fromkeys(matches))
    return list(found), empty


class Table(Protocol):
    """A file of feature vectors that grows by batches and appears whole when it is done."""

    def add(self, paths: Sequence[str], features: NDArray[np.float32]) -> None:
        """Append one row a path."""

    def finish(self) -> None:
        """Complete the file."""


class _Raw:
    """.npy and .npz: rows are spooled, because their number stands at the front of the array."""

    def __init__(self, target: Path, temporary: Path) -> None:
        self._target, self._temporary = target, temporary
        self._spool = tempfile.TemporaryFile(dir=target.parent)  # noqa: SIM115 - closed by finish
        self._paths: list[str] = []

    def add(self, paths: Sequence[str], features: NDArray[np.float32]) -> None:
        self._paths += paths
        self._spool.write(np.ascontiguousarray(features, "<f4").tobytes())

    def _write_array(self, file: IO[bytes]) -> None:
        shape = (len(self._paths), _FEATURES)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        self._spool.seek(0)
        shutil.copyfileobj(self._spool, file)

    def finish(self) -> None:
        with self._spool:
            if self._target.suffix == ".npy":
                with self._temporary.open("wb") as file:
                    self._write_array(file)
                # An array has no room for names: they stand beside it, one a line, in the order of its rows.
                write_text(paths_file(self._target), "".join(f"{path}\n" for path in self._paths))
                return
            import zipfile

            with zipfile.ZipFile(self._temporary, "w") as archive:
                with archive.open("features.npy", "w", force_zip64=True) as member:
                    self._write_array(member)
                with archive.open("paths.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(self._paths, dtype=np.str_), allow_pickle=False)


class _Csv:
    """.csv: ``path,f0,…,f1279`` with digits enough to give the same float32 back."""

    def __init__(self, target: Path, temporary: Path) -> None:
        import csv

        self._file = temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        self._rows = csv.writer(self._file)
        self._rows.writerow(["path", *(f"f{i}" for i in range(_FEATURES))])

    def add(self, paths: Sequence[str], features: NDArray[np.float32]) -> None:
        for path, row in zip(paths, features, strict=True):
            self._rows.writerow([path, *(f"{value:.9g}" for value in row.tolist())])

    def finish(self) -> None:
        self._file.close()


class _Parquet:
    """.parquet: ``path`` string, ``features`` fixed-size list of 1280 floats."""

    def __init__(self, target: Path, temporary: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._pa: Any = pa
        self._schema = pa.schema([("path", pa.string()), ("features", pa.list_(pa.float32(), _FEATURES))])
        self._file = parquet.ParquetWriter(str(temporary), self._schema)

    def add(self, paths: Sequence[str], features: NDArray[np.float32]) -> None:
        flat = self._pa.array(features.reshape(-1), type=self._pa.float32())
        vectors = self._pa.FixedSizeListArray.from_arrays(flat, _FEATURES)
        self._file.write_table(self._pa.table([self._pa.array(paths), vectors], schema=self._schema))

    def finish(self) -> None:
        self._file.close()


class TableFile:
    """Context manager around a ``Table``: the target appears by a rename at the end, or not at all.

    Raises ValueError for another suffix than ``FORMATS``, ImportError without pyarrow for .parquet, OSError
    where the folder can't be written; all before any work.
    """

    def __init__(self, target: Path) -> None:
        kinds: dict[str, Callable[[Path, Path], Table]] = {
            ".npy": _Raw,
            ".npz": _Raw,
            ".csv": _Csv,
            ".parquet": _Parquet,
        }
        if target.suffix.lower() not in kinds:
            raise ValueError(f"{target}: expected a name that ends in {', '.join(FORMATS)}")
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder")
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        self._target, self._temporary = target, Path(name)
        try:
            self._table = kinds[target.suffix.lower()](target, self._temporary)
        except ImportError as error:
            self._temporary.unlink()
            raise ImportError(f"{target}: needs pyarrow: pip install 'fastmnv2[parquet]'") from error

    def __enter__(self) -> Table:
        return self._table

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._table.finish()
                publish(self._temporary, self._target)
        finally:
            self._temporary.unlink(missing_ok=True)


def publish(temporary: Path, target: Path) -> None:
    """Rename a finished temporary file, with the permissions that a new file would have."""
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    os.replace(temporary, target)


def write_text(target: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        publish(Path(name), target)
    finally:
        Path(name).unlink(missing_ok=True)


def paths_file(target: Path) -> Path:
    """Where the names of an .npy file's rows go: ``features.npy`` -> ``features.paths.txt``."""
    return target.with_suffix(".paths.txt")
