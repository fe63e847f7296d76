"""The pictures that a command was given: as paths, folders and globs, or as a list of names in a file or a pipe."""

import contextlib
import dataclasses
import errno
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, BinaryIO

from fastmnv2.core.errors import ImageError
from fastmnv2.image import embed
from fastmnv2.image.decode import Options
from fastmnv2.image.find import NOT_THERE, find
from fastmnv2.image.stream import Compute

_NOT_THERE = (NOT_THERE, os.strerror(errno.ENOENT))
_LONGEST = 1 << 16  # bytes of a name in a list


class Pictures:
    """Picture files, which ``results`` goes through once.

    What ``find`` finds is sorted; names in lists are taken as they come, however many, and may be URLs. What can't
    be read is handed to ``skip`` (path, why), counted in ``skipped`` and left out; ``read`` counts the rest.
    ``total`` is how many there are, None while a list is being read; ``missing`` counts what was named and is not
    there, ``others`` by suffix what was left out of folders.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        skip: Callable[[str, str], None],
        *,
        listed: str | None = None,
        null: bool = False,
        recursive: bool = True,
        options: Options | None = None,
        batch_size: int = 64,
    ) -> None:
        self.read = self.skipped = self.missing = 0
        self._report, self.batch_size = skip, batch_size
        self.options = options or Options()
        self._listed = [name for name in (*(["-"] if "-" in arguments else []), listed) if name is not None]
        self._null = null
        named = [name for name in arguments if name != "-"]
        self.found, self.others = find(named, self.failed, recursive=recursive)

    @property
    def total(self) -> int | None:
        """How many pictures there are, if that is known."""
        return None if self._listed else len(self.found)

    def names(self) -> Iterator[str]:
        """Every picture's name."""
        yield from self.found
        for source in self._listed:
            if source == "-":
                yield from self._lines(sys.stdin.buffer)
            else:
                with open(source, "rb") as file:
                    yield from self._lines(file)

    def results(self, compute: Compute, threads: int, size: tuple[int, int]) -> Generator[tuple[str, Any], None, None]:
        """Each picture's name and what ``compute`` makes of it, resized to height and width ``size``."""
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
        """Count one more that can't be read, and tell why."""
        self.skipped += 1
        self.missing += str(why) in _NOT_THERE
        self._report(path, str(why))

    def _lines(self, file: BinaryIO) -> Iterator[str]:
        end = b"\0" if self._null else b"\n"
        rest = b""
        while chunk := file.read1(_LONGEST) if hasattr(file, "read1") else file.read(_LONGEST):
            *lines, rest = (rest + chunk).split(end)
            for line in lines:
                yield from self._name(line)
            if len(rest) > _LONGEST:
                self.failed(os.fsdecode(rest[:80]) + "…", "a name of more than 65536 bytes; nothing after it is read")
                return
        yield from self._name(rest)

    def _name(self, line: bytes) -> Iterator[str]:
        line = line if self._null else line.removesuffix(b"\r")
        if line:
            yield os.fsdecode(line)
