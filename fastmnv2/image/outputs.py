"""Writers of the feature files of ``fastmnv2 embed``: in batches, with bounded memory, atomically."""

import abc
import contextlib
import csv
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.atomic import check_writable, writing
from fastmnv2.core.errors import CONTROLS
from fastmnv2.image import keys

_ROW_GROUP = 1024  # larger than a batch, for less metadata and better compression
_FORMULA = ("=", "+", "-", "@")  # first characters that make spreadsheets evaluate a cell


class Writer(abc.ABC):
    """Writes batches: paths ``[n]`` and float32 features ``[n,features]``."""

    @abc.abstractmethod
    def append(self, paths: Sequence[str], features: NDArray[np.float32]) -> None:
        """Write one batch."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Write the end of the file; nothing can be appended afterwards."""

    def close(self) -> None:  # noqa: B027 - most writers hold no resources
        """Release all resources except the file, whether or not the writer has finished."""


@contextlib.contextmanager
def open_output(target: Path, features: int) -> Iterator[Writer]:
    """A writer of vectors with ``features`` numbers each, in the format of ``target``'s suffix.

    - ``.npy``: float32 ``[n,features]``, then the paths ``[n]`` in the same file. ``numpy.load`` of the file's name
      gives the first array; two calls on the open file give both.
    - ``.npz``: arrays ``features`` float32 ``[n,features]`` and ``paths`` ``[n]``.
    - ``.csv``: columns path, f0, f1 and so on, with the shortest decimals that give the same float32. Control
      characters in paths are escaped, and a path that a spreadsheet would take for a formula starts with ``./``.
    - ``.parquet``: columns path (string) and features (fixed-size lists of float32). A path that is not UTF-8 is stored
      as in a folder: see ``fastmnv2.image.keys``. Needs pyarrow.

    Everything is written to a temporary file next to ``target``, which is renamed when the block ends. If the block
    raises, the temporary file is removed and ``target`` is unchanged.

    Raises:
        ValueError: if the suffix is none of these, or ``target`` is a folder.
        OSError: if ``target``'s folder does not exist or can't be written to.
        ImportError: if pyarrow is needed and not installed.
    """
    check_target(target)
    with writing(target) as file, contextlib.closing(WRITERS[target.suffix.lower()](file, features)) as writer:
        yield writer
        writer.finish()


def check_target(target: Path) -> None:
    """Raise what ``open_output`` raises, without writing anything."""
    suffix = target.suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(f"{target}: expected a name ending in {', '.join(WRITERS)}, got {suffix or 'none of them'!r}")
    if target.is_dir():
        raise ValueError(f"{target}: expected a file to write, got a folder")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: there is no folder {str(target.parent)!r} to write it to")
    check_writable(target)
    if suffix == ".parquet":
        _pyarrow()


def _write_paths(file: IO[bytes], paths: Sequence[str]) -> None:
    """Write an array of strings as numpy.save does, but in parts, because each takes the longest one's space."""
    kind = np.dtype(f"<U{max(1, *map(len, paths))}") if paths else np.dtype("<U1")
    header = {"descr": kind.str, "fortran_order": False, "shape": (len(paths),)}
    np.lib.format.write_array_header_1_0(file, header)
    for start in range(0, len(paths), _ROW_GROUP):
        file.write(np.array(paths[start : start + _ROW_GROUP], kind).tobytes())


class Npy(Writer):
    """Rows of a .npy file. The header has a fixed length and is rewritten when the number of rows is known."""

    def __init__(self, file: IO[bytes], features: int) -> None:
        self._file, self._features, self._rows, self.paths = file, features, 0, list[str]()
        file.write(self._header())

    def _header(self) -> bytes:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self._rows}, {self._features}), }}"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.ljust(117).encode() + b"\n"

    def append(self, paths: Sequence[str], features: NDArray[np.float32]) -> None:
        """See ``Writer``."""
        self._file.write(np.ascontiguousarray(features, "<f4").tobytes())
        self._rows += len(features)
        self.paths += paths

    def finish(self) -> None:
        """See ``Writer``."""
        self.finish_rows()
        _write_paths(self._file, self.paths)

    def finish_rows(self) -> None:
        """Finish the array of features, without writing the paths."""
        self._file.seek(0)
        self._file.write(self._header())
        self._file.seek(0, os.SEEK_END)


class Npz(Writer):
    """Rows of a .npz file. They wait in an unnamed temporary file, because a zip entry can't be rewritten."""

    def __init__(self, file: IO[bytes], features: int) -> None:
        import tempfile

        folder = Path(file.name).parent
        self._file = file
        self._rows = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 -- lives as long as the writer
        self._npy = Npy(self._rows, features)

    def append(self, paths: Sequence[str], features: NDArray[np.float32]) -> None:
        """See ``Writer``."""
        self._npy.append(paths, features)

    def finish(self) -> None:
        """See ``Writer``."""
        self._npy.finish_rows()
        self._rows.seek(0)
        with zipfile.ZipFile(self._file, "w") as archive:
            with archive.open("features.npy", "w", force_zip64=True) as entry:
                shutil.copyfileobj(self._rows, entry, 1 << 20)
            with archive.open("paths.npy", "w", force_zip64=True) as entry:
                _write_paths(entry, self._npy.paths)

    def close(self) -> None:
        """See ``Writer``."""
        self._rows.close()


def _cell(path: str) -> str:
    """A path as one line that no spreadsheet evaluates; "./" before a relative path keeps its meaning."""
    return ("./" if path.startswith(_FORMULA) else "") + path.translate(CONTROLS)


class Csv(Writer):
    """Comma-separated values with one header line, quoted if needed."""

    def __init__(self, file: IO[bytes], features: int) -> None:
        import io

        self._text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="", write_through=True)
        self._csv = csv.writer(self._text)
        self._csv.writerow(["path", *(f"f{i}" for i in range(features))])

    def append(self, paths: Sequence[str], features: NDArray[np.float32]) -> None:
        """See ``Writer``."""
        for path, row in zip(paths, features.astype(np.str_), strict=True):
            self._csv.writerow([_cell(path), *row])

    def finish(self) -> None:
        """See ``Writer``."""
        self._text.detach()


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        message = "writing .parquet needs pyarrow: pip install 'fastmnv2[parquet]'"
        raise ImportError(message, name="pyarrow") from error
    return pyarrow


class Parquet(Writer):
    """Rows of a .parquet file, with a row group for about every thousand pictures."""

    def __init__(self, file: IO[bytes], features: int) -> None:
        self._arrow = pyarrow = _pyarrow()
        self._features = features
        schema = [("path", pyarrow.string()), ("features", pyarrow.list_(pyarrow.float32(), features))]
        self._schema = pyarrow.schema(schema)
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema)
        self._waiting: list[Any] = []
        self._rows = 0

    def append(self, paths: Sequence[str], features: NDArray[np.float32]) -> None:
        """See ``Writer``."""
        text = [path if keys.is_text(path) else keys.key(path) for path in paths]
        # A copy, because the caller may reuse its array while the rows wait.
        values = self._arrow.array(features.reshape(-1).copy())
        lists = self._arrow.FixedSizeListArray.from_arrays(values, self._features)
        columns = [self._arrow.array(text, self._arrow.string()), lists]
        self._waiting.append(self._arrow.record_batch(columns, schema=self._schema))
        self._rows += len(paths)
        if self._rows >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(self._arrow.Table.from_batches(self._waiting), row_group_size=self._rows)
        self._waiting, self._rows = [], 0

    def finish(self) -> None:
        """See ``Writer``."""
        self._flush()
        self._writer.close()

    def close(self) -> None:
        """See ``Writer``. Otherwise pyarrow would write its footer to the closed file when it is garbage collected."""
        with contextlib.suppress(OSError):
            self._writer.close()


WRITERS: dict[str, Callable[..., Writer]] = {".npy": Npy, ".npz": Npz, ".csv": Csv, ".parquet": Parquet}
