"""The pictures that a command's arguments name: paths, folders and globs, or a list of names in a file or a pipe."""

import codecs
import contextlib
import dataclasses
import errno
import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, BinaryIO

from fastmnv2.core.errors import ImageError
from fastmnv2.image import embed
from fastmnv2.image.decode import Options
from fastmnv2.image.find import NOT_THERE, find
from fastmnv2.image.stream import Compute

_NOT_THERE = (NOT_THERE, os.strerror(errno.ENOENT))
_LONGEST = 1 << 16  # the maximum number of characters of a name in a list
_TOO_LONG = f"a name of more than {_LONGEST} characters"
_CHUNK = 1 << 16

Skip = Callable[[str, str], None]


class Pictures:
    """Picture files, which can be iterated over once, with ``results`` or ``names``.

    Files that ``find`` found are sorted. Lists may have any number of names, which keep their order and may be URLs.
    Each picture that can't be read is reported to ``skip`` (path, reason) and skipped.

    Attributes:
        read: the number of pictures that were read.
        skipped: the number of pictures that could not be read.
        missing: the number of skipped pictures that don't exist.
        others, links, searched, empty, unlisted: as in ``find.Found``.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        skip: Skip,
        *,
        listed: str | None = None,
        null: bool = False,
        recursive: bool = True,
        follow_links: bool = False,
        options: Options | None = None,
        batch_size: int = 64,
    ) -> None:
        self.read = self.skipped = self.missing = 0
        self._report, self.batch_size = skip, batch_size
        self.options = options or Options()
        self._listed = [name for name in (*(["-"] if "-" in arguments else []), listed) if name is not None]
        self._null = null
        named = [name for name in arguments if name != "-"]
        found = find(named, self.failed, recursive=recursive, follow_links=follow_links)
        self.found: list[str] = found.paths
        self.others: Counter[str] = found.others
        self.links, self.searched, self.empty, self.unlisted = found.links, found.searched, found.empty, found.unlisted

    @property
    def total(self) -> int | None:
        """The number of pictures; None until a list has been read to its end."""
        return None if self._listed else len(self.found)

    def names(self) -> Iterator[str]:
        """The name of each picture."""
        yield from self.found
        for source in self._listed:
            if source == "-":
                yield from read_names(sys.stdin.buffer, self.failed, null=self._null)
            else:
                with open(source, "rb") as file:
                    yield from read_names(file, self.failed, null=self._null)

    def results(self, compute: Compute, threads: int, size: tuple[int, int]) -> Generator[tuple[str, Any], None, None]:
        """The name of each picture, and the result of ``compute`` for it, resized to height and width ``size``."""
        items: Any = self.names() if self._listed else self.found
        options, batch_size = dataclasses.replace(self.options, size=size), self.batch_size
        run = embed.run(compute, items, options, batch_size=batch_size, threads=threads, on_error=self._failed)
        with contextlib.closing(run) as results:
            for result in results:
                self.read += 1
                yield result.item, result.value

    def _failed(self, error: ImageError) -> None:
        self.failed(error.name, error.reason)

    def failed(self, path: str, why: object) -> None:
        """Count one more picture that can't be read, and report it."""
        self.skipped += 1
        self.missing += str(why) in _NOT_THERE
        self._report(path, str(why))


def read_names(file: BinaryIO, skip: Skip, *, null: bool) -> Iterator[str]:
    """The names in a list in UTF-8 or UTF-16: one per line, or with ``null``, each followed by a NUL.

    On POSIX systems names are bytes and may not be valid UTF-8. UTF-16 is recognised by the byte order mark that
    Windows programs write. Invalid names are reported to ``skip``.
    """
    ending = "\0" if null else "\n"
    for name in _split(_decoded(file), ending, skip):
        found = name if null else name.removesuffix("\r")
        if "\0" in found:
            skip(found[:80], "a NUL in a name: -0 reads names that end with NUL; UTF-16 needs a byte order mark")
        elif found:
            yield found


def _decoded(file: BinaryIO) -> Iterator[str]:
    """The text of a list as it arrives, without its byte order mark. Invalid bytes decode as in ``os.fsdecode``."""
    start = b""
    while len(start) < 3 and (chunk := _read(file)):
        start += chunk
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        decoder: codecs.IncrementalDecoder = codecs.getincrementaldecoder("utf-16")("surrogatepass")
    else:
        start = start.removeprefix(codecs.BOM_UTF8)
        decoder = codecs.getincrementaldecoder(sys.getfilesystemencoding())("surrogateescape")
    yield decoder.decode(start)
    while chunk := _read(file):
        yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


def _read(file: BinaryIO) -> bytes:
    return file.read1(_CHUNK) if hasattr(file, "read1") else file.read(_CHUNK)


def _split(chunks: Iterator[str], ending: str, skip: Skip) -> Iterator[str]:
    """Split chunks of text into names. Holds no more than one chunk of an overlong name."""
    rest, reported = "", False  # whether ``rest`` belongs to an overlong name that was already reported
    for chunk in chunks:
        *names, rest = (rest + chunk).split(ending)
        for name in names:
            if len(name) <= _LONGEST and not reported:
                yield name
            elif not reported:
                skip(name[:80] + "…", _TOO_LONG)
            reported = False
        if len(rest) > _LONGEST:
            if not reported:
                skip(rest[:80] + "…", _TOO_LONG)
            rest, reported = "", True
    if not reported:
        yield rest
