"""How readers open files: regular ones only, no further than their size says, and digests of them."""

import os
from pathlib import Path
from typing import BinaryIO


def exists(path: Path) -> bool:
    """Whether there is anything at ``path``; False for what can't be a path."""
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
        size = os.fstat(file.fileno()).st_size  # files in /proc say 0, and may have no end
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
