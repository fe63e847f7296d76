"""Long jobs: a folder of Parquet parts that is whole whenever the process is killed, and goes on from there.

- ``part-000000.parquet`` and on: 10,000 rows each but for the last. Columns: ``path``; ``size`` and ``mtime`` (ns), or
  ``etag`` for URLs, by which a changed picture is known; ``features``, a list of or float16, null for a
  picture that can't be read; ``error``, why, else null. What the features were made with is in the schema's metadata.
- ``manifest.json``: what there is, written last. While it is missing, the job is not finished.

A part is written to a temporary file and renamed. Rows of changed pictures go to the last part; the old ones are
dropped from theirs when the job is through. Until then a path may stand in two parts: the later one counts.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastmnv2._version import __version__
from fastmnv2.core.atomic import writing
from fastmnv2.core.model import Model
from fastmnv2.core.network import DEFAULT
from fastmnv2.core.progress import progress
from fastmnv2.image.given import Pictures
from fastmnv2.image.stream import stream

PART_ROWS = 10_000
SAVE_SECONDS = 20.0
"""A part that is not full is written as well, this long after the last time: so much is lost at most."""

_PART = re.compile(r"part-(\d{6})\.parquet")
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Settings:
    """What the command line's options for folders say."""

    normalize: bool = False
    float16: bool = False
    prune: bool = False
    engine: str = "local"
    threads: int | None = None


@dataclass(frozen=True)
class State:
    """What tells a changed picture from the one that a row was made of. All None if it could not be asked."""

    size: int | None = None
    mtime: int | None = None
    etag: str | None = None

    @classmethod
    def of(cls, name: str) -> "State":
        """Of a file or URL, now."""
        try:
            if "://" not in name:
                found = os.stat(name)
                return cls(found.st_size, found.st_mtime_ns)
            import fsspec

            system, path = fsspec.core.url_to_fs(name)
            info = system.info(path)
        except Exception:  # decoding it will tell
            return cls()
        tags = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime")
        return cls(info.get("size"), None, next((str(info[tag]) for tag in tags if info.get(tag)), None))


@dataclass
class Row:
    """One picture's: a vector, or an error."""

    name: str
    state: State
    vector: Any = None
    error: str | None = None


def embed_to_folder(model: Model, pictures: Pictures, folder: Path, settings: Settings) -> dict[str, int]:
    """Bring ``folder`` up to date with ``pictures``; returns how many are there, and what was done.

    Raises:
        ValueError: the folder holds features that were made in another way, or something else altogether.
        OSError: it can't be written to, or another process is writing to it.
        ImportError: pyarrow (or ray) is not installed.
    """
    made_with = {
        "weights": model.weights["sha256"],
        "network": model.network.name,
        "normalize": settings.normalize,
        "float16": settings.float16,
        **_settings(pictures),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        parts = Parts(folder, made_with, model.network.features)
        todo = _Todo(pictures.names(), parts)
        rows = {"local": _local, "ray": _on_ray}[settings.engine](model, todo, pictures, settings)
        try:
            with contextlib.closing(rows), progress("embedding", pictures.total, unit="pictures") as advance:
                for row in rows:
                    if row.error is not None:
                        pictures.failed(row.name, row.error)
                    parts.append(row)
                    advance(todo.seen_count)
        finally:  # whatever ended it, what is there is kept
            parts.save()
        gone = parts.drop_others(todo.seen) if settings.prune else 0
        parts.finish()
        counts = {"new": todo.new, "changed": todo.changed, "dropped": gone}
        return {"pictures": parts.good, **{what: number for what, number in counts.items() if number}}


def _settings(pictures: Pictures) -> dict[str, Any]:
    """How pictures are read, as JSON; their size is the network's."""
    return {name: value for name, value in asdict(pictures.options).items() if name != "size"}


class _Todo:
    """The pictures whose rows are missing or out of date."""

    def __init__(self, names: Iterable[str], parts: "Parts") -> None:
        self._names, self._parts = names, parts
        self.seen: set[str] = set()
        self.new = self.changed = 0

    @property
    def seen_count(self) -> int:
        return len(self.seen)

    def __iter__(self) -> Iterator["_Asked"]:
        for name in self._names:
            key = _text(name)
            if key in self.seen:
                continue
            self.seen.add(key)
            asked = _Asked(name)
            asked.state = State.of(name)  # before it is read: what changes meanwhile is seen the next time
            known = self._parts.known.get(key)
            if known is None:
                self.new += 1
            elif known[0] == asked.state:
                continue
            else:
                self.changed += 1
            yield asked


class _Asked(str):
    """A picture's name with its state."""

    __slots__ = ("state",)
    state: State


def _local(model: Model, todo: _Todo, pictures: Pictures, settings: Settings) -> Generator[Row, None, None]:
    def compute(images: Any, threads: int) -> Any:
        return model.embed(images, threads=threads, normalize=settings.normalize)

    threads = model.thread_count(settings.threads)
    options = replace(pictures.options, size=model.network.size)
    results = stream(todo, compute, options, threads=threads, batch_size=pictures.batch_size)
    with contextlib.closing(results):
        for result in results:
            error = result.error.reason if result.error else None
            yield Row(result.item, result.item.state, result.value, error)


def _on_ray(model: Model, todo: _Todo, pictures: Pictures, settings: Settings) -> Generator[Row, None, None]:
    from fastmnv2.ray import embed_names

    asked: dict[str, State] = {str(name): name.state for name in todo}
    options = {"normalize": settings.normalize, **_settings(pictures)}
    with contextlib.closing(embed_names(model, list(asked), batch_size=pictures.batch_size, **options)) as found:
        for name, vector, error in found:
            yield Row(name, asked[name], vector, error)


def _text(name: str) -> str:
    """A name as text of Parquet: bytes that are not UTF-8 are written in hexadecimal."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# ---- parts ----


@dataclass
class _Part:
    """A part's rows but for their vectors, by path."""

    number: int
    rows: dict[str, State] = field(default_factory=dict)
    bad: set[str] = field(default_factory=set)


class Parts:
    """The parts of a folder, the last of which grows."""

    def __init__(self, folder: Path, made_with: dict[str, Any], features: int) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            says = "writing .parquet needs pyarrow: pip install 'fastmnv2[parquet]'"
            raise ImportError(says, name="pyarrow") from error
        self._arrow: Any = pyarrow
        self._folder, self._made_with, self._features = folder, made_with, features
        number = pyarrow.float16() if made_with["float16"] else pyarrow.float32()
        columns = {
            "path": pyarrow.string(),
            "size": pyarrow.int64(),
            "mtime": pyarrow.int64(),
            "etag": pyarrow.string(),
            "features": pyarrow.list_(number, self._features),
            "error": pyarrow.string(),
        }
        metadata = {"fastmnv2": json.dumps(made_with, sort_keys=True)}
        self._schema = pyarrow.schema(list(columns.items()), metadata=metadata)
        self.known: dict[str, tuple[State, int]] = {}
        self._parts: dict[int, _Part] = {}
        self._scan()
        self._open = max(self._parts, default=0)
        if len(self._parts.get(self._open, _Part(0)).rows) >= PART_ROWS:
            self._open += 1
        self._rows: list[Row] = []
        self._saved = time.monotonic()

    @property
    def good(self) -> int:
        """Pictures that have a vector."""
        return len(self.known) - sum(len(part.bad) for part in self._parts.values())

    def append(self, row: Row) -> None:
        """One row more, of a path that is not known, or was another picture."""
        self._rows.append(row)
        full = len(self._rows) + len(self._parts.get(self._open, _Part(0)).rows) >= PART_ROWS
        if full or time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the rows that have come since, into the part that is open."""
        if not self._rows:
            return
        with contextlib.suppress(FileNotFoundError):
            (self._folder / _MANIFEST).unlink()
        part = self._parts.setdefault(self._open, _Part(self._open))
        tables = [self._table(self._rows)]
        if part.rows:
            fresh = {_text(row.name) for row in self._rows}
            tables.insert(0, self._without(self._read(part.number), fresh))
        self._write(part.number, self._arrow.concat_tables(tables))
        for row in self._rows:
            self._learn(part, _text(row.name), row.state, bad=row.error is not None)
        if len(part.rows) >= PART_ROWS:
            self._open += 1
        self._rows, self._saved = [], time.monotonic()

    def drop_others(self, paths: set[str]) -> int:
        """Forget the rows of all other paths, which ``finish`` then drops; returns how many."""
        gone = self.known.keys() - paths
        for path in gone:
            del self.known[path]
        return len(gone)

    def finish(self) -> None:
        """Drop what is out of date, and write the manifest, if there is anything new to say in it."""
        manifest = self._folder / _MANIFEST
        for part in list(self._parts.values()):
            stale = {path for path in part.rows if self.known.get(path, (None, -1))[1] != part.number}
            if stale:
                with contextlib.suppress(FileNotFoundError):
                    manifest.unlink()
                self._drop(part, stale)
        if manifest.exists():
            return
        parts = [
            {"file": self._path(part.number).name, "rows": len(part.rows), "errors": len(part.bad)}
            for part in sorted(self._parts.values(), key=lambda part: part.number)
        ]
        text = {"format": 1, "fastmnv2": __version__, "made_with": self._made_with, "parts": parts}
        with writing(manifest) as file:
            file.write(json.dumps(text, indent=2).encode() + b"\n")

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number:06}.parquet"

    def _scan(self) -> None:
        for path in sorted(self._folder.iterdir()):
            if path.name.startswith(".part-") and path.name.endswith(".tmp"):
                path.unlink()  # of a process that was killed
            found = _PART.fullmatch(path.name)
            if not found:
                continue
            part = self._parts[int(found[1])] = _Part(int(found[1]))
            for name, size, mtime, etag, error in self._described(path):
                self._learn(part, name, State(size, mtime, etag), bad=error is not None)

    def _described(self, path: Path) -> Iterator[tuple[Any, ...]]:
        try:
            file = self._arrow.parquet.ParquetFile(path)
            described = {"network": DEFAULT.name} | json.loads((file.schema_arrow.metadata or {})[b"fastmnv2"])
            table = file.read(columns=["path", "size", "mtime", "etag", "error"])
        except (KeyError, ValueError, self._arrow.ArrowException) as error:
            raise ValueError(f"{path}: expected a part that fastmnv2 has written: {error!r}") from error
        other = [key for key in self._made_with if described.get(key) != self._made_with[key]]
        if other:
            pairs = ", ".join(f"{key} {described.get(key)!r}, not {self._made_with[key]!r}" for key in other)
            raise ValueError(f"{path}: its features were made with {pairs}; write to another folder")
        return zip(*(column.to_pylist() for column in table.columns), strict=True)

    def _learn(self, part: _Part, path: str, state: State, *, bad: bool) -> None:
        part.rows[path] = state
        (part.bad.add if bad else part.bad.discard)(path)
        self.known[path] = (state, part.number)

    def _table(self, rows: list[Row]) -> Any:
        zeros = np.zeros(self._features, np.float32)
        dtype = np.float16 if self._made_with["float16"] else np.float32
        values = np.stack([zeros if row.error is not None else row.vector for row in rows]).astype(dtype)
        missing = self._arrow.array([row.error is not None for row in rows])
        lists = self._arrow.FixedSizeListArray.from_arrays(
            self._arrow.array(values.reshape(-1)), type=self._schema.field("features").type, mask=missing
        )
        columns = [
            self._arrow.array([_text(row.name) for row in rows], self._arrow.string()),
            self._arrow.array([row.state.size for row in rows], self._arrow.int64()),
            self._arrow.array([row.state.mtime for row in rows], self._arrow.int64()),
            self._arrow.array([row.state.etag for row in rows], self._arrow.string()),
            lists,
            self._arrow.array([row.error for row in rows], self._arrow.string()),
        ]
        return self._arrow.Table.from_arrays(columns, schema=self._schema)

    def _read(self, number: int) -> Any:
        return self._arrow.parquet.ParquetFile(self._path(number)).read().cast(self._schema)

    def _without(self, table: Any, paths: set[str]) -> Any:
        keep = [path not in paths for path in table.column("path").to_pylist()]
        return table if all(keep) else table.filter(self._arrow.array(keep))

    def _write(self, number: int, table: Any) -> None:
        with writing(self._path(number)) as file:
            self._arrow.parquet.write_table(table, file)

    def _drop(self, part: _Part, paths: set[str]) -> None:
        for path in paths:
            del part.rows[path]
            part.bad.discard(path)
        if part.rows:
            self._write(part.number, self._without(self._read(part.number), paths))
        else:
            self._path(part.number).unlink()
            del self._parts[part.number]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time; the lock goes with the process, however it ends."""
    with (folder / ".lock").open("wb") as file:
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BlockingIOError(f"{folder}: another process is writing to this folder") from None
        yield
