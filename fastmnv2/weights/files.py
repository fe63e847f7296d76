"""Read weights files safely: only regular files, and no more bytes than their size. Also hash files."""

import os
from io import BufferedReader
from pathlib import Path

import numpy as np


def exists(path: Path) -> bool:
    """Whether anything exists at ``path``; False for names that can't be paths."""
    try:
        path.stat()
    except PermissionError:
        return True
    except (OSError, ValueError):  # not found, a circle of links, a name that is too long or contains a NUL
        return False
    return True


def open_file(path: Path) -> BufferedReader:
    """Open a regular file for reading. ValueError for anything else, such as a pipe, which could block the reader."""

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    if not path.is_file():
        path.stat()  # raises the reason if it does not exist
        raise ValueError(f"{path.name} is not a regular file")
    return open(path, "rb", opener=without_waiting)


def _size(file: BufferedReader, path: Path, limit: int) -> int:
    size = os.fstat(file.fileno()).st_size  # files in /proc report 0 and may be endless
    if size > limit:
        raise ValueError(f"{path.name} has {size} bytes, expected at most {limit}")
    return size


def read_file(path: Path, limit: int) -> bytes:
    """All bytes of a regular file. ValueError if there are more than ``limit``."""
    with open_file(path) as file:
        return file.read(_size(file, path, limit))


def read_block(path: Path, limit: int) -> memoryview:
    """A regular file's bytes as a read-only view of an array, which is faster for megabytes of weights.

    numpy requests huge pages for large arrays, which saves a page fault for every 4 KB.
    """
    with open_file(path) as file:
        size = _size(file, path, limit)
        block, done = np.empty(size, np.uint8).data, 0
        while done < size and (count := file.readinto(block[done:])):  # 0 if the file has been truncated
            done += count
        return block[:done].toreadonly()


def file_sha256(*paths: Path) -> str:
    """SHA-256 of files' bytes, in order, in hexadecimal. ValueError if two are the same file."""
    import hashlib  # here, because OpenSSL takes 5 ms to load and the native form does not need it

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
