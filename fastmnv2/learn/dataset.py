"""Which pictures have which labels: folders of classes, tables, or pairs in memory."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.image.find import find

TABLES = (".csv", ".tsv", ".parquet")
_PATHS = ("path", "file", "filename", "image")
_LABELS = ("label", "labels", "class", "classes")
_SEPARATORS = ";|"


@dataclass(frozen=True)
class Dataset:
    """Pictures and their labels.

    Attributes:
        paths: of the pictures.
        classes: names, sorted.
        members: bool ``[n,classes]``, which classes a picture is of.
    """

    paths: list[str]
    classes: tuple[str, ...]
    members: NDArray[np.bool_]

    @property
    def exclusive(self) -> bool:
        """Whether each picture is of just one class."""
        return bool((self.members.sum(axis=1) == 1).all())

    def only(self, rows: Any) -> "Dataset":
        """The same with some of the pictures."""
        kept = np.arange(len(self.paths))[rows]
        return Dataset([self.paths[i] for i in kept], self.classes, self.members[kept])


def read(data: Any, skip: Callable[[str, object], None]) -> Dataset:
    """The data set that ``data`` stands for; see ``fastmnv2.learn.study``.

    Raises:
        FileNotFoundError: there is no such folder or table.
        ValueError: there are no two classes, or a table lacks a column.
    """
    if isinstance(data, (str, os.PathLike)):
        path = Path(data)
        if path.is_dir():
            labels = _folders(path, skip)
        elif path.suffix.lower() in TABLES:
            labels = _table(path)
        elif path.exists():
            raise ValueError(f"{path}: expected a folder of classes, or a table ending in {', '.join(TABLES)}")
        else:
            raise FileNotFoundError(f"{path}: there is no such folder or table")
    else:
        labels = _pairs(data)
    classes = tuple(sorted({name for names in labels.values() for name in names}))
    if len(classes) < 2:
        given = data if isinstance(data, (str, os.PathLike)) else "data"
        raise ValueError(
            f"{given}: expected pictures of at least two classes, got {len(labels)} pictures of "
            f"{', '.join(classes) or 'none'}; a folder of classes has a folder for each"
        )
    index = {name: number for number, name in enumerate(classes)}
    members = np.zeros((len(labels), len(classes)), np.bool_)
    for row, names in enumerate(labels.values()):
        members[row, [index[name] for name in names]] = True
    return Dataset(list(labels), classes, members)


def _folders(folder: Path, skip: Callable[[str, object], None]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for part in sorted(folder.iterdir()):
        if part.is_dir() and not part.name.startswith("."):
            found |= {path: [part.name] for path in find([str(part)], skip).paths}
    return found


def _table(path: Path) -> dict[str, list[str]]:
    rows = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    found: dict[str, list[str]] = {}
    for picture, label in rows:
        # Relative to the table, wherever it is read from.
        names = found.setdefault(str(path.parent / str(picture)), [])
        names += [name for name in _split(label) if name not in names]
    return found


def _split(label: Any) -> list[str]:
    if isinstance(label, (list, tuple, np.ndarray)):
        return [str(name) for name in label]
    text = str(label)
    for sign in _SEPARATORS[1:]:
        text = text.replace(sign, _SEPARATORS[0])
    return [name.strip() for name in text.split(_SEPARATORS[0]) if name.strip()]


def _columns(path: Path, names: list[str]) -> tuple[str, str]:
    """The columns with paths and labels: by their names, else the first two."""
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
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            picture, label = _columns(path, list(reader.fieldnames or ()))
            return [(row[picture], row[label] or "") for row in reader if row[picture]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected a CSV table in UTF-8: {error}") from error


def _parquet(path: Path) -> list[tuple[Any, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("reading .parquet needs pyarrow: pip install 'fastmnv2[parquet]'", name="pyarrow") from error
    try:
        picture, label = _columns(path, pyarrow.parquet.read_schema(path).names)
        table = pyarrow.parquet.read_table(path, columns=[picture, label])
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: expected a Parquet table: {error}") from error
    return list(zip(table[picture].to_pylist(), table[label].to_pylist(), strict=True))


def _pairs(data: Any) -> dict[str, list[str]]:
    if isinstance(data, dict):
        data = data.items()
    if not isinstance(data, Iterable):
        raise TypeError(f"data: expected a folder, a table or pairs of path and label, got {type(data).__name__}")
    found: dict[str, list[str]] = {}
    for entry in data:
        if not isinstance(entry, (tuple, list)) or len(entry) != 2:
            raise TypeError(f"data: expected pairs of path and label, got {entry!r}")
        path, label = entry
        names = label if isinstance(label, (list, tuple)) else [label]
        found.setdefault(os.fspath(path), []).extend(str(name) for name in names)
    return found
