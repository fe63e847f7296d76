"""Writing files whole or not at all: a temporary file beside each, then a rename."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def writing(*targets: Path) -> Iterator[Sequence[BinaryIO]]:
    """New files, open for writing, that take the places of ``targets`` when the block ends.

    They do so in the order given, when all of them are complete and on the disk. If the block ends with an
    exception, they are removed and every target is as it was. A process that is killed may leave a hidden
    temporary file behind, but never half a target.

    Raises:
        OSError: a target's folder is not there or can't be written to; it names the target.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp") for path in targets}
    with contextlib.ExitStack() as stack:
        files = []
        for path, beside in temporary.items():
            stack.callback(_discard, beside)
            try:
                files.append(stack.enter_context(beside.open("xb")))
            except OSError as error:
                error.filename = str(path)  # the name that the user knows
                raise
        yield files
        for file in files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        for path, beside in temporary.items():
            os.replace(beside, path)


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):  # such as a name too long, of which opening it tells
        path.unlink()
