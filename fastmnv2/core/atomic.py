"""Writing files whole or not at all: a temporary file beside each, then a rename."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def writing(target: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing, that takes the place of ``target`` when the block ends, and its permissions.

    If the block ends with an exception, it is removed and ``target`` is as it was. Through a symbolic link, what it
    leads to is written. A process that is killed may leave a hidden temporary file behind, but never half a target.

    Raises:
        ValueError: ``target`` is there and is no regular file.
        OSError: its folder is not there or can't be written to; the error names ``target``.
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


def _mode(place: Path, target: Path) -> int | None:
    """Permissions of the file that is to be replaced, None if there is none."""
    try:
        mode = place.stat().st_mode
    except OSError:  # nothing there; what else may be wrong, opening a file beside it tells
        return None
    if not stat.S_ISREG(mode):
        raise ValueError(f"{target}: expected a file to write, got {'a folder' if stat.S_ISDIR(mode) else 'none'}")
    return stat.S_IMODE(mode)


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):  # such as a name too long, of which opening it tells
        path.unlink()
