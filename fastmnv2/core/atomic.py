"""Write files atomically, by renaming a temporary file next to them, and lock folders for one writer at a time."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def writing(target: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing, that replaces ``target`` when the block ends, with the permissions of ``target``.

    If the block raises, the new file is removed and ``target`` is unchanged. If ``target`` is a symbolic link, the file
    that it points to is replaced. A killed process may leave a hidden temporary file, but never a half-written target.

    Raises:
        ValueError: if ``target`` exists and is not a regular file.
        OSError: if its folder does not exist or can't be written to; the error names ``target``.
    """
    place = Path(os.path.realpath(target)) if target.is_symlink() else target
    _mode(place, target)
    temporary = place.with_name(f".{place.name}.{os.urandom(4).hex()}.tmp")
    with contextlib.ExitStack() as stack:
        stack.callback(_discard, temporary)
        try:
            file = stack.enter_context(temporary.open("xb"))
        except OSError as error:
            error.filename = str(target)  # the name that the user knows
            raise
        yield file
        file.flush()
        os.fsync(file.fileno())
        file.close()
        mode = _mode(place, target)
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, place)


def check_writable(target: Path) -> None:
    """Raise the error that ``writing`` would raise before anything is written."""
    with contextlib.suppress(_Checked), writing(target):
        raise _Checked


class _Checked(Exception):
    pass


def _mode(place: Path, target: Path) -> int | None:
    """Permissions of the file that will be replaced; None if it does not exist."""
    try:
        mode = place.stat().st_mode
    except OSError:  # not found; any other problem is reported when the temporary file is opened next to it
        return None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a special file"
        raise ValueError(f"{target}: expected a file to write, got {kind}")
    return stat.S_IMODE(mode)


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):  # such as a name that is too long, which opening the file reports
        path.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock ``folder`` against other processes that use this function. The lock ends with this process.

    Raises:
        BlockingIOError: if another process holds the lock.
        ValueError: if ``.lock`` in the folder exists and is not a regular file, but a link or a pipe, for example.
    """
    with os.fdopen(_open_lock(folder / ".lock"), "rb") as file:
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BlockingIOError(f"{folder}: another process is writing to this folder") from None
        yield


def _open_lock(place: Path) -> int:
    """Open or create the lock file and return its descriptor. Follows no links and leaves the content alone."""
    # Non-blocking, because opening a pipe could wait for ever.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    refused = ValueError(f"{place}: expected a regular file to lock, got a link, a pipe or the like; remove it")
    if place.is_symlink():
        raise refused
    try:
        try:
            descriptor = os.open(place, flags, 0o666)
        except PermissionError:  # such as another user's file in a shared folder: locking needs no write access
            descriptor = os.open(place, flags & ~(os.O_RDWR | os.O_CREAT) | os.O_RDONLY)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise refused from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise refused
    return descriptor
