"""Feature files that ``fastmnv2 embed`` writes: in batches, bounded memory, whole or not at all."""

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

from fastmnv2.atomic import writing
from fastmnv2.network import FEATURES

_ROW_GROUP = 1024  # parquet's metadata and compression want groups larger than a batch


class Writer(abc.ABC):
    """Takes batches: as many paths as rows of float32 ``[n,1280]``."""

    @abc.abstractmethod
    def append(self, paths: Sequence[str], features: NDArray[np.float32]) -> None:
        """Write one batch. The paths must have passed ``check_paths``."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Write what stands at the end of the file; nothing is appended after it."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of everything but the file, finished or not."""


@contextlib.contextmanager
def open_output(target: Path) -> Iterator[Writer]:
    """A writer for the format that ``target``'s suffix names.

    - ``.npy``: float32 ``[n,1280]``, and beside it ``NAME.paths.txt``, one path a line.
    - ``.npz``: arrays ``features`` float32 ``[n,1280]`` and ``paths`` ``[n]``.
    - ``.csv``: columns path, f0 … f1279; the shortest decimals that give the float32 back.
    - ``.parquet``: columns path (string) and features (float32 lists of 1280). Needs pyarrow.

    Everything goes to temporary files beside ``target``, which take its place when the block ends without
    an exception; else they are removed and ``target`` is as it was.

    Raises:
        ValueError: another suffix, or ``target`` is a folder.
        OSError: ``target``'s folder does not exist or can't be written to.
        ImportError: pyarrow is needed and not installed.
    """
    suffix = target.suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(f"{target}: expected a name ending in {', '.join(WRITERS)}, got {suffix or 'none of them'!r}")
    if target.is_dir():
        raise ValueError(f"{target}: expected a file to write, got a folder")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: there is no folder {str(target.parent)!r} to write it to")
    # The last one is what the user named: it appears when all it belongs with is there.
    targets = [paths_beside(target), target] if suffix == ".npy" else [target]
    with writing(*targets) as files, contextlib.closing(WRITERS[suffix](*files)) as writer:
        yield writer
        writer.finish()


def check_paths(target: Path, paths: Sequence[str]) -> None:
    """ValueError for a path that ``target``'s format can't hold: in .npy's list, each is one line."""
    if target.suffix.lower() == ".npy":
        for path in paths:
            if len(path.splitlines()) != 1:
                raise ValueError(f"{path!r}: this path is not one line of text; write a .npz instead")


def paths_beside(target: Path) -> Path:
    """Where the paths of ``features.npy`` go: ``features.paths.txt``."""
    return target.with_name(f"{target.stem}.paths.txt")


class Npy(Writer):
    """Rows of a .npy file; its header, of fixed length, is written again when their number is known."""

    def __init__(self, names: IO[bytes] | None, file: IO[bytes]) -> None:
        self._names, self._file, self._rows = names, file, 0
        file.write(self._header())

    def _header(self) -> bytes:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self._rows}, {FEATURES}), }}"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.ljust(117).encode() + b"\n"

    def append(self, paths: Sequence[str], features: NDArray[np.float32]) -> None:
        """See ``Writer``."""
        if self._names is not None:
            self._names.write("".join(f"{path}\n" for path in paths).encode("utf-8", "surrogateescape"))
        self._file.write(np.ascontiguousarray(features, "<f4").tobytes())
        self._rows += len(features)

    def finish(self) -> None:
        """See ``Writer``."""
        self._file.seek(0)
        self._file.write(self._header())
        self._file.seek(0, os.SEEK_END)


class Npz(Writer):
    """The rows wait in an unnamed temporary file, because a zip entry can't be written to twice."""

    def __init__(self, file: IO[bytes]) -> None:
        import tempfile

        folder = Path(file.name).parent
        self._file, self._paths = file, list[str]()
        self._rows = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 -- lives as long as the writer
        self._npy = Npy(None, self._rows)

    def append(self, paths: Sequence[str], features: NDArray[np.float32]) -> None:
        """See ``Writer``."""
        self._paths += paths
        self._npy.append(paths, features)

    def finish(self) -> None:
        """See ``Writer``."""
        self._npy.finish()
        self._rows.seek(0)
        with zipfile.ZipFile(self._file, "w") as archive:
            with archive.open("features.npy", "w", force_zip64=True) as entry:
                shutil.copyfileobj(self._rows, entry, 1 << 20)
            with archive.open("paths.npy", "w", force_zip64=True) as entry:
                np.save(entry, np.array(self._paths, np.str_), allow_pickle=False)

    def close(self) -> None:
        """See ``Writer``."""
        self._rows.close()


class Csv(Writer):
    """Comma-separated, quoted where needed, one header line."""

    def __init__(self, file: IO[bytes]) -> None:
        import io

        self._text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="", write_through=True)
        self._csv = csv.writer(self._text)
        self._csv.writerow(["path", *(f"f{i}" for i in range(FEATURES))])

    def append(self, paths: Sequence[str], features: NDArray[np.float32]) -> None:
        """See ``Writer``."""
        for path, row in zip(paths, features.astype(np.str_), strict=True):
            self._csv.writerow([path, *row])

    def finish(self) -> None:
        """See ``Writer``."""
        self._text.detach()


class Parquet(Writer):
    """A row group for about every thousand images."""

    def __init__(self, file: IO[bytes]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            says = "writing .parquet needs pyarrow: pip install 'fastmnv2[parquet]'"
            raise ImportError(says, name="pyarrow") from error
        self._arrow: Any = pyarrow
        schema = [("path", pyarrow.string()), ("features", pyarrow.list_(pyarrow.float32(), FEATURES))]
        self._schema = pyarrow.schema(schema)
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema)
        self._waiting: list[Any] = []
        self._rows = 0

    def append(self, paths: Sequence[str], features: NDArray[np.float32]) -> None:
        """See ``Writer``. Bytes of a path that are not UTF-8 become U+FFFD, as parquet has text only."""
        text = [path.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for path in paths]
        # A copy: the caller may reuse its array while the rows wait.
        values = self._arrow.array(features.reshape(-1).copy())
        lists = self._arrow.FixedSizeListArray.from_arrays(values, FEATURES)
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
        """See ``Writer``. Unfinished, pyarrow would write its footer when collected, into a closed file."""
        with contextlib.suppress(OSError):
            self._writer.close()


WRITERS: dict[str, Callable[..., Writer]] = {".npy": Npy, ".npz": Npz, ".csv": Csv, ".parquet": Parquet}
