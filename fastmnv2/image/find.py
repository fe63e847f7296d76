"""The picture files behind paths, folders and globs."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastmnv2.image import keys
from fastmnv2.image.decode import SUFFIXES

_Skip = Callable[[str, object], None]

NOT_THERE = "no such file or folder"


@dataclass
class Found:
    """The result of a search.

    Attributes:
        paths: the pictures' paths and the named URLs, sorted and without duplicates.
        others: the number of files of other kinds in the folders, by suffix.
        links: symbolic links to folders, within the searched folders, that were not followed.
        searched: arguments that are folders with pictures.
        empty: arguments that are folders without pictures.
        unlisted: arguments that don't exist or could not be searched, and why.
    """

    paths: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    links: list[str] = field(default_factory=list)
    searched: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    unlisted: dict[str, str] = field(default_factory=dict)


def find(arguments: Iterable[str], skip: _Skip, *, recursive: bool = True, follow_links: bool = False) -> Found:
    """Search for pictures.

    Args:
        arguments: paths, folders, globs and URLs. A path that is named, or that a glob matches, is taken with any
            suffix. Folders are searched for ``SUFFIXES``, without hidden files and folders.
        skip: called with the path and the reason for each path that does not exist or can't be searched.
        recursive: search folders within folders.
        follow_links: also search folders within folders that are symbolic links, each folder once.
    """
    search = _Search(skip, recursive, follow_links)
    for argument in arguments:
        search.add(argument)
    search.found.paths = sorted(search.paths.values())
    return search.found


class _Search:
    def __init__(self, skip: _Skip, recursive: bool, follow_links: bool) -> None:
        self._skip, self._recursive, self._follow_links = skip, recursive, follow_links
        self.found = Found()
        self.paths: dict[Path | str, str] = {}

    def add(self, argument: str) -> None:
        """Add all pictures that an argument stands for."""
        names = [argument]
        if not _exists(argument):
            if keys.is_url(argument):
                self.paths.setdefault(argument, argument)
                return
            names = glob.glob(argument, recursive=True) if any(sign in argument for sign in "*?[") else []
            if not names:
                self._unlisted(argument, NOT_THERE)
        for name in names:
            if not os.path.isdir(name):
                self._add(Path(name))
                continue
            count = 0
            for path in self._walk(name):
                self._add(path)
                count += 1
            if name not in self.found.unlisted:
                (self.found.searched if count else self.found.empty).append(name)

    def _add(self, path: Path) -> None:
        self.paths.setdefault(keys.absolute(path), str(path))

    def _unlisted(self, source: str, why: str) -> None:
        self.found.unlisted[source] = why
        self._skip(source, why)

    def _walk(self, folder: str) -> Iterator[Path]:
        def unreadable(error: OSError) -> None:
            if error.filename == folder:
                self._unlisted(folder, str(error.strerror))
            else:
                self._skip(str(error.filename), error.strerror)

        visited: set[tuple[int, int]] = set()
        for parent, folders, files in os.walk(folder, onerror=unreadable, followlinks=self._follow_links):
            if self._follow_links and not _first_visit(parent, visited):
                folders[:] = []
                continue
            folders[:] = [name for name in folders if self._recursive and not name.startswith(".")]
            if not self._follow_links:
                self.found.links += [os.path.join(parent, name) for name in folders if _is_link(parent, name)]
            for name in files:
                path = Path(parent, name)
                if name.startswith("."):
                    continue
                if path.suffix.lower() in SUFFIXES:
                    yield path
                else:
                    self.found.others[path.suffix.lower()] += 1


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # the path contains a NUL
        return False


def _is_link(parent: str, name: str) -> bool:
    return os.path.islink(os.path.join(parent, name))


def _first_visit(folder: str, visited: set[tuple[int, int]]) -> bool:
    """Mark a folder as visited. Return False if it had been visited before, which means that links form a circle."""
    try:
        found = os.stat(folder)
    except OSError:
        return True  # the walk reports the reason
    number = (found.st_dev, found.st_ino)
    if number in visited:
        return False
    visited.add(number)
    return True
