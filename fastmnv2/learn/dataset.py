"""Pictures and their labels, from folders of classes, tables, or pairs in memory."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.image.decode import SUFFIXES
from fastmnv2.image.find import find

TABLES = (".csv", ".tsv", ".parquet")
_PATHS = ("path", "file", "filename", "image")
_LABELS = ("label", "labels", "class", "classes")
_SEPARATORS = ";|"
_MISSING = frozenset({"nan", "NaN", "NaT", "<NA>", "null", "NULL"})


@dataclass(frozen=True)
class Dataset:
    """Pictures and their labels.

    Attributes:
        paths: the pictures' paths.
        classes: the classes' names, sorted.
        members: bool ``[n,classes]``, the classes of each picture.
    """

    paths: list[str]
    classes: tuple[str, ...]
    members: NDArray[np.bool_]

    @property
    def exclusive(self) -> bool:
        """Whether each picture has exactly one class."""
        return bool((self.members.sum(axis=1) == 1).all())

    def only(self, rows: Any) -> "Dataset":
        """A subset with some of the pictures."""
        indices = np.arange(len(self.paths))[rows]
        return Dataset([self.paths[i] for i in indices], self.classes, self.members[indices])


Skip = Callable[[str, object], None]


def read(data: Any, skip: Skip, *, follow_links: bool = False) -> Dataset:
    """Read ``data``, of any of the kinds that ``fastmnv2.learn.study`` lists.

    Pictures whose label is missing are reported to ``skip`` and skipped.

    Raises:
        FileNotFoundError: if the folder or table does not exist.
        ValueError: if there are fewer than two classes, or a table lacks a column.
    """
    if isinstance(data, (str, os.PathLike)):
        path = Path(data)
        if path.is_dir():
            labels = _folders(path, skip, follow_links)
        elif path.suffix.lower() in TABLES:
            labels = _table(path, skip)
        elif path.exists():
            raise ValueError(f"{path}: expected a folder of classes, or a table ending in {', '.join(TABLES)}")
        else:
            raise FileNotFoundError(f"{path}: there is no such folder or table")
    else:
        labels = _labelled(_pairs(data), skip)
    classes = tuple(sorted({name for names in labels.values() for name in names}))
    if len(classes) < 2:
        name = data if isinstance(data, (str, os.PathLike)) else "data"
        raise ValueError(
            f"{name}: expected pictures of at least two classes, got {len(labels)} pictures of "
            f"{', '.join(classes) or 'none'}; a folder of classes has a folder for each class"
        )
    index = {name: number for number, name in enumerate(classes)}
    members = np.zeros((len(labels), len(classes)), np.bool_)
    for row, names in enumerate(labels.values()):
        members[row, [index[name] for name in names]] = True
    return Dataset(list(labels), classes, members)


def _folders(folder: Path, skip: Skip, follow_links: bool) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for part in sorted(folder.iterdir()):
        if part.is_dir() and not part.name.startswith("."):
            found = find([str(part)], skip, follow_links=follow_links)
            labels |= {path: [part.name] for path in found.paths}
            for link in found.links:
                skip(link, "a link to a folder; follow_links (--follow-links) searches it")
    return labels


_Rows = Iterable[tuple[str, Any]]
"""Pairs of a path ("" if it is missing) and a label, as stored in the data."""


def _labelled(rows: _Rows, skip: Skip) -> dict[str, list[str]]:
    """The names of each picture's classes, by its path. Pictures without a label are reported and skipped.

    In a multi-label task, where pictures may have several labels, an empty label means "none of the classes". Otherwise
    it is a missing label. An empty list always means "none of the classes".
    """
    found: dict[str, list[str]] = {}
    empty = []
    for number, (path, label) in enumerate(rows):
        if not path:
            skip(f"row {number + 1}", "there is no path")
            continue
        names = _split(label)
        if names is None:
            skip(path, "there is no label")
            continue
        if not names and isinstance(label, (str, bytes)):
            empty.append(path)
        known = found.setdefault(path, [])
        known += [name for name in names if name not in known]
    if all(len(names) <= 1 for names in found.values()):
        for path in empty:
            if not found.get(path, True):
                skip(path, "there is no label")
                del found[path]
    return found


def _is_missing(value: Any) -> bool:
    """Whether a value is missing: None, NaN of any type, pandas' NA, numpy's masked, or a usual spelling of these."""
    if value is None or value is np.ma.masked or type(value).__name__ == "NAType":
        return True
    if isinstance(value, str):
        return value.strip() in _MISSING
    return bool(value != value)  # noqa: PLR0124 -- NaN of any type, and NaT


def _split(label: Any) -> list[str] | None:
    """The names in a label; None if it is missing."""
    label = _plain(label)
    if isinstance(label, (list, tuple, set, frozenset, np.ndarray)) and label is not np.ma.masked:
        return [_name(name) for name in map(_plain, label) if not _is_missing(name)]
    if _is_missing(label):
        return None
    text = _name(label)
    for sign in _SEPARATORS[1:]:
        text = text.replace(sign, _SEPARATORS[0])
    return [name.strip() for name in text.split(_SEPARATORS[0]) if name.strip()]


def _plain(value: Any) -> Any:
    """Convert Arrow's scalars and tensors without dimensions to Python values, and other tensors to numpy arrays."""
    if hasattr(value, "as_py"):
        return value.as_py()
    if isinstance(value, np.generic) or value is np.ma.masked or not hasattr(value, "__array__"):
        return value
    array = np.asarray(value)
    return array if array.ndim else array.item()


def _name(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# ---- tables ----


def _table(path: Path, skip: Skip) -> dict[str, list[str]]:
    rows = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    return _labelled(((_place(path.parent, picture), label) for picture, label in rows), skip)


def _place(folder: Path, picture: Any) -> Any:
    """A picture's path. Relative paths are relative to the table's folder, not to the working directory."""
    if _is_missing(picture) or picture == "":
        return ""
    return str(folder / (os.fsdecode(picture) if isinstance(picture, bytes) else str(picture)))


def _columns(path: Path, names: list[str]) -> tuple[str, str]:
    """The names of the columns with paths and labels. A table of two columns may use any names."""
    found = []
    for expected, place in ((_PATHS, 0), (_LABELS, 1)):
        known = [name for name in names if name.strip().lower() in expected]
        if not known and len(names) != 2:
            raise ValueError(
                f"{path}: expected a column {expected[0]!r} or {expected[1]!r}, got {', '.join(names[:10])}"
            )
        found.append(known[0] if known else names[place])
    return found[0], found[1]


def _csv(path: Path) -> list[tuple[Any, Any]]:
    import csv

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            rows = [row for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected a CSV table in UTF-8: {error}") from error
    header = rows[0] if rows else []
    if len(header) == 2 and _is_picture(path, header[0]):  # a table without a header
        header = [_PATHS[0], _LABELS[0]]
    else:
        rows = rows[1:]
    picture, label = (header.index(name) for name in _columns(path, header))
    width = max(picture, label) + 1
    cells: list[list[str | None]] = [[*row, *[None] * (width - len(row))] for row in rows]
    return [(row[picture], row[label]) for row in cells]


def _is_picture(path: Path, name: str) -> bool:
    """Whether a cell of a table names a picture, which means that its row is not a header."""
    return Path(name).suffix.lower() in SUFFIXES or (path.parent / name).is_file()


def _parquet(path: Path) -> list[tuple[Any, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("reading .parquet needs pyarrow: pip install 'fastmnv2[parquet]'", name="pyarrow") from error
    try:
        with path.open("rb") as file:  # opened here, because pyarrow refuses names that are not UTF-8
            table = pyarrow.parquet.ParquetFile(file)
            picture, label = _columns(path, table.schema_arrow.names)
            table = table.read(columns=[picture, label])
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: expected a Parquet table: {error}") from error
    return list(zip(table[picture].to_pylist(), table[label].to_pylist(), strict=True))


# ---- pairs in memory ----


def _pairs(data: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        data = data.items()
    if not isinstance(data, Iterable):
        raise TypeError(f"data: expected a folder, a table or pairs of path and label, got {type(data).__name__}")
    for entry in data:
        if not isinstance(entry, (tuple, list, np.ndarray)) or len(entry) != 2:
            raise TypeError(f"data: expected pairs of path and label, got {entry!r}")
        path, label = _plain(entry[0]), entry[1]
        yield ("" if _is_missing(path) else os.fsdecode(path)), label
