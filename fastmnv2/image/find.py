"""The picture files behind paths, folders and globs."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from fastmnv2.image.decode import SUFFIXES

_Skip = Callable[[str, object], None]


def find(arguments: Iterable[str], skip: _Skip, *, recursive: bool = True) -> list[str]:
    """Picture files behind paths, folders and globs, sorted, each once.

    A path that is named, or that a glob matches, is taken whatever its suffix; folders are searched for
    ``SUFFIXES``, hidden files and folders left out. What is not there or can't be searched is handed to
    ``skip`` (path, why).
    """
    found: dict[Path, str] = {}
    for argument in arguments:
        for path in _expand(argument, skip, recursive):
            found.setdefault(path.absolute(), str(path))
    return sorted(found.values())


def _expand(argument: str, skip: _Skip, recursive: bool) -> Iterator[Path]:
    names = [argument]
    if not os.path.lexists(argument):
        names = glob.glob(argument, recursive=True) if any(sign in argument for sign in "*?[") else []
        if not names:
            skip(argument, "no such file or folder")
    for name in names:
        if Path(name).is_dir():
            yield from _search(name, skip, recursive)
        else:
            yield Path(name)


def _search(folder: str, skip: _Skip, recursive: bool) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        skip(str(error.filename), error.strerror)

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                yield path
