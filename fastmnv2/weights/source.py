"""What every weights reader returns: named arrays, and where they came from; and how readers open files."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastmnv2.errors import printable

_NOTES_LIMIT = 20


@dataclass(frozen=True)
class Source:
    """Float32 arrays as read from one file or folder, before folding.

    ``tensors`` uses TF-Slim's names and shapes (see ``fastmnv2.network.Layer``). A layer comes either with
    ``<scope>/BatchNorm/{gamma,beta,moving_mean,moving_variance}``, or already folded with ``<scope>/biases``.
    """

    form: str  # "hub", "checkpoint", "keras", "tflite", "native" or "untrained"
    origin: str  # path, URL or name, as a bug report should show it
    sha256: str  # of the file the tensors were read from
    tensors: dict[str, NDArray[np.float32]]
    notes: tuple[str, ...] = ()  # what was ignored or assumed, one sentence each

    def __post_init__(self) -> None:
        kept = self.notes[:_NOTES_LIMIT]
        if len(self.notes) > _NOTES_LIMIT:
            kept += (f"{len(self.notes) - _NOTES_LIMIT} more notes",)
        object.__setattr__(self, "notes", tuple(printable(note) for note in kept))


def exists(path: Path) -> bool:
    """Whether there is anything at ``path``, which may be no path at all."""
    try:
        path.stat()
    except PermissionError:
        return True
    except (OSError, ValueError):  # no such thing, a loop of links, too long a name, a NUL in it
        return False
    return True


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading. Anything else, such as a pipe, could keep its reader waiting: ValueError."""

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    if not path.is_file():
        path.stat()  # says why, if it is not there
        raise ValueError(f"{path.name} is not a regular file")
    return open(path, "rb", opener=without_waiting)


def read_file(path: Path, limit: int) -> bytes:
    """All bytes of a regular file, ValueError if there are more than ``limit``."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size  # those of /proc say 0, and may have no end
        if size > limit:
            raise ValueError(f"{path.name} has {size} bytes, expected at most {limit}")
        return file.read(size)


def file_sha256(*paths: Path) -> str:
    """SHA-256 of files' bytes, in order, in hexadecimal. ValueError if two are the same file."""
    import hashlib  # here, for it takes OpenSSL 5 ms to load, and the native form does not need it

    digest = hashlib.sha256()
    seen = set()
    for path in paths:
        with open_file(path) as file:
            state = os.fstat(file.fileno())
            if state.st_ino and (state.st_dev, state.st_ino) in seen:
                raise ValueError(f"{path.name} is another name for a file before it")
            seen.add((state.st_dev, state.st_ino))
            left = state.st_size
            while left > 0 and (chunk := file.read(min(left, 1 << 20))):
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()
