"""The picture files behind paths, folders and globs."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from fastmnv2.image.decode import SUFFIXES

_Skip = Callable[[str, object], None]

NOT_THERE = "no such file or folder"


class Found(NamedTuple):
    """What ``find`` came upon: pictures, and how many files of other kinds in the folders, by suffix."""

    paths: list[str]
    others: Counter[str]


def find(arguments: Iterable[str], skip: _Skip, *, recursive: bool = True) -> Found:
    """Picture files behind paths, folders and globs, sorted, each once.

    A path that is named, or that a glob matches, is taken whatever its suffix; folders are searched for
    ``SUFFIXES``, hidden files and folders left out. What is not there or can't be searched is handed to
    ``skip`` (path, why).
    """
    found: dict[Path, str] = {}
    others: Counter[str] = Counter()
    for argument in arguments:
        for path in _expand(argument, skip, recursive, others):
            found.setdefault(path.absolute(), str(path))
    return Found(sorted(found.values()), others)


def _expand(argument: str, skip: _Skip, recursive: bool, others: Counter[str]) -> Iterator[Path]:
    names = [argument]
    if not os.path.lexists(argument):
        names = glob.glob(argument, recursive=True) if any(sign in argument for sign in "*?[") else []
        if not names:
            skip(argument, NOT_THERE)
    for name in names:
        if Path(name).is_dir():
            yield from _search(name, skip, recursive, others)
        else:
            yield Path(name)


def _search(folder: str, skip: _Skip, recursive: bool, others: Counter[str]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        skip(str(error.filename), error.strerror)

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            if name.startswith("."):
                continue
            if path.suffix.lower() in SUFFIXES:
                yield path
            else:
                others[path.suffix.lower()] += 1
