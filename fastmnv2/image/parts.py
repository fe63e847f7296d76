"""A folder of Parquet parts that stays consistent if the process is killed at any time.

- ``part-000000.parquet`` and so on: 10,000 rows each, except the last. The columns:

  - ``path``: the picture's key, see ``fastmnv2.image.keys``;
  - ``size`` and ``mtime`` (ns), or ``etag`` for URLs, which show whether a picture has changed;
  - ``features``: a list of float32 or float16, null for a picture that can't be read;
  - ``error``: why the picture can't be read, or null;
  - ``transient``: whether this machine or the network caused that error. The next run retries such rows.

  The schema's metadata records the settings with which the features were computed.
- ``manifest.json``: lists the parts. It is written last: as long as it is missing, the job is not finished.

A part is written to a temporary file and renamed. New rows of changed pictures go to the last part; their old rows are
dropped when the job is done. Until then a path may be in two parts, and the later part counts.
"""

import contextlib
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmnv2._version import __version__
from fastmnv2.core.atomic import writing
from fastmnv2.image import keys

PART_ROWS = 10_000
SAVE_SECONDS = 20.0
"""Seconds between writes of a part that is not full; a killed process loses at most this much work."""

MANIFEST = "manifest.json"
_PART = re.compile(r"part-(\d{6})\.parquet")
_FORMAT = 2


class State(NamedTuple):
    """Properties of a file that show whether it has changed since its row was made. Unknown ones are None."""

    size: int | None = None
    mtime: int | None = None
    etag: str | None = None


@dataclass
class Row:
    """The row of one picture: a vector, or an error."""

    key: str
    state: State
    vector: NDArray[np.float32] | None = None
    error: str | None = None
    transient: bool = False


class Known(NamedTuple):
    """A stored row, without its vector."""

    state: State
    part: int
    bad: bool
    transient: bool


@dataclass
class _Part:
    """Keys of a part's rows, and whether each is an error."""

    number: int
    rows: dict[str, bool] = field(default_factory=dict)


class Parts:
    """The parts of a folder. New rows are added to the last part.

    Args:
        folder: the folder, which must exist.
        made_with: the settings that the features depend on. They must be the same for all parts.
        defaults: values of settings that older parts may not record.
        features: the length of a vector.

    Raises:
        ValueError: if the folder holds features with other settings, or another program's file.
        ImportError: if pyarrow is not installed.
    """

    def __init__(self, folder: Path, made_with: dict[str, Any], defaults: dict[str, Any], features: int) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            message = "writing .parquet needs pyarrow: pip install 'fastmnv2[parquet]'"
            raise ImportError(message, name="pyarrow") from error
        self._arrow: Any = pyarrow
        self._folder, self._made_with, self._defaults = folder, {**made_with, "format": _FORMAT}, defaults
        self._features = features
        number = pyarrow.float16() if made_with["float16"] else pyarrow.float32()
        columns = {
            "path": pyarrow.string(),
            "size": pyarrow.int64(),
            "mtime": pyarrow.int64(),
            "etag": pyarrow.string(),
            "features": pyarrow.list_(number, features),
            "error": pyarrow.string(),
            "transient": pyarrow.bool_(),
        }
        metadata = {"fastmnv2": json.dumps(self._made_with, sort_keys=True)}
        self._schema = pyarrow.schema(list(columns.items()), metadata=metadata)
        self.known: dict[str, Known] = {}
        self._parts: dict[int, _Part] = {}
        self._check_manifest()
        self._scan()
        self._open = max(self._parts, default=0)
        if len(self._rows_of(self._open)) >= PART_ROWS:
            self._open += 1
        self._rows: list[Row] = []
        self._saved = time.monotonic()

    @property
    def good(self) -> int:
        """The number of pictures that have a vector."""
        return sum(not row.bad for row in self.known.values())

    @property
    def bad(self) -> int:
        """The number of pictures that have an error."""
        return len(self.known) - self.good

    def append(self, row: Row) -> None:
        """Add a row for a new picture, or replace a picture's old row."""
        self._rows.append(row)
        full = len(self._rows) + len(self._rows_of(self._open)) >= PART_ROWS
        if full or time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the rows that were added since the last call to the last part."""
        if not self._rows:
            return
        with contextlib.suppress(FileNotFoundError):
            (self._folder / MANIFEST).unlink()
        part = self._parts.setdefault(self._open, _Part(self._open))
        tables = [self._table(self._rows)]
        if part.rows:
            tables.insert(0, self._without(self._read(part.number), {row.key for row in self._rows}))
        self._write(part.number, self._arrow.concat_tables(tables))
        for row in self._rows:
            self._learn(part, row.key, row.state, row.error is not None, row.transient)
        if len(part.rows) >= PART_ROWS:
            self._open += 1
        self._rows, self._saved = [], time.monotonic()

    def drop(self, gone: Iterable[str]) -> int:
        """Mark these rows as dropped; ``finish`` then removes them from the parts. Return their number."""
        return sum(self.known.pop(key, None) is not None for key in list(gone))

    def finish(self) -> None:
        """Remove dropped and outdated rows from the parts, and write the manifest if anything changed."""
        manifest = self._folder / MANIFEST
        for part in list(self._parts.values()):
            stale = {key for key in part.rows if key not in self.known or self.known[key].part != part.number}
            if stale:
                with contextlib.suppress(FileNotFoundError):
                    manifest.unlink()
                self._drop(part, stale)
        if manifest.exists():
            return
        parts = [
            {"file": self._path(part.number).name, "rows": len(part.rows), "errors": sum(part.rows.values())}
            for part in sorted(self._parts.values(), key=lambda part: part.number)
        ]
        text = {"format": _FORMAT, "fastmnv2": __version__, "made_with": self._made_with, "parts": parts}
        with writing(manifest) as file:
            file.write(json.dumps(text, indent=2).encode() + b"\n")

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number:06}.parquet"

    def _rows_of(self, number: int) -> dict[str, bool]:
        return self._parts[number].rows if number in self._parts else {}

    def _check_manifest(self) -> None:
        """Raise ValueError for another program's manifest, which must not be overwritten."""
        manifest = self._folder / MANIFEST
        try:
            ours = not manifest.exists() or (manifest.is_file() and "fastmnv2" in json.loads(manifest.read_bytes()))
        except (ValueError, TypeError):
            ours = False
        if not ours:
            raise ValueError(f"{manifest}: expected a manifest that fastmnv2 wrote; write to another folder")

    def _scan(self) -> None:
        for path in sorted(self._folder.iterdir()):
            if path.name.startswith(".part-") and path.name.endswith(".tmp") and path.is_file():
                path.unlink()  # the temporary file of a killed process
            found = _PART.fullmatch(path.name)
            if not found:
                continue
            part = self._parts[int(found[1])] = _Part(int(found[1]))
            for key, size, mtime, etag, error, transient in self._described(path):
                self._learn(part, key, State(size, mtime, etag), error is not None, transient)

    def _described(self, path: Path) -> Iterator[tuple[Any, ...]]:
        if not path.is_file():  # reading a pipe could block for ever
            raise ValueError(f"{path}: expected a part that fastmnv2 wrote, got a special file")
        try:
            file = self._arrow.parquet.ParquetFile(path)
            described = json.loads((file.schema_arrow.metadata or {})[b"fastmnv2"])
            self._check_made_with(path, described)
            table = file.read(columns=["path", "size", "mtime", "etag", "error", "transient"])
        except (KeyError, TypeError, json.JSONDecodeError, self._arrow.ArrowException) as error:
            raise ValueError(f"{path}: expected a part that fastmnv2 wrote: {error!r}") from error
        return zip(*(column.to_pylist() for column in table.columns), strict=True)

    def _check_made_with(self, path: Path, described: dict[str, Any]) -> None:
        if described.get("format") != _FORMAT:
            raise ValueError(
                f"{path}: expected a part of format {_FORMAT}, got format {described.get('format', 1)} of another "
                "version of fastmnv2, which does not record all settings; write to another folder"
            )
        theirs = {**self._defaults, **described}
        different = [name for name in self._made_with if theirs.get(name) != self._made_with[name]]
        if different:
            pairs = ", ".join(
                f"{name} {_short(theirs.get(name))}, not {_short(self._made_with[name])}" for name in different
            )
            raise ValueError(f"{path}: its features were made with {pairs}; write to another folder")

    def _learn(self, part: _Part, key: str, state: State, bad: bool, transient: bool) -> None:
        part.rows[key] = bad
        self.known[key] = Known(state, part.number, bad, transient)

    def _table(self, rows: list[Row]) -> Any:
        zeros = np.zeros(self._features, np.float32)
        dtype = np.float16 if self._made_with["float16"] else np.float32
        values = np.stack([zeros if row.vector is None else row.vector for row in rows]).astype(dtype)
        missing = self._arrow.array([row.vector is None for row in rows])
        lists = self._arrow.FixedSizeListArray.from_arrays(
            self._arrow.array(values.reshape(-1)), type=self._schema.field("features").type, mask=missing
        )
        columns = {
            "path": [row.key for row in rows],
            "size": [row.state.size for row in rows],
            "mtime": [row.state.mtime for row in rows],
            "etag": [row.state.etag for row in rows],
            "features": lists,
            "error": [None if row.error is None else keys.text(row.error) for row in rows],
            "transient": [row.transient for row in rows],
        }
        arrays = [
            column if column is lists else self._arrow.array(column, self._schema.field(name).type)
            for name, column in columns.items()
        ]
        return self._arrow.Table.from_arrays(arrays, schema=self._schema)

    def _read(self, number: int) -> Any:
        return self._arrow.parquet.ParquetFile(self._path(number)).read().cast(self._schema)

    def _without(self, table: Any, gone: set[str]) -> Any:
        keep = [key not in gone for key in table.column("path").to_pylist()]
        return table if all(keep) else table.filter(self._arrow.array(keep))

    def _write(self, number: int, table: Any) -> None:
        with writing(self._path(number)) as file:
            self._arrow.parquet.write_table(table, file)

    def _drop(self, part: _Part, stale: set[str]) -> None:
        for key in stale:
            del part.rows[key]
        if part.rows:
            self._write(part.number, self._without(self._read(part.number), stale))
        else:
            self._path(part.number).unlink()
            del self._parts[part.number]


def _short(value: object) -> str:
    """A setting for a message; digests are shortened."""
    return repr(value[:16] if isinstance(value, str) else value)
