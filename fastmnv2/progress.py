"""One progress bar for all that takes long: on standard error, if that is a terminal."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol


class Advance(Protocol):
    """Takes how much is done, and of how much in all where that has become known."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """Draw that."""


def _silent(done: int, total: int | None = None) -> None:
    pass


@contextlib.contextmanager
def progress(what: str, total: int | None = None, *, in_bytes: bool = False) -> Iterator[Advance]:
    """Yields a function to be told how much is done; draws a bar while the block runs.

    Nothing is drawn where standard error is no terminal; without rich, ``what`` is printed there once.
    """
    if not sys.stderr.isatty():
        yield _silent
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    except ImportError:
        print(what, file=sys.stderr)
        yield _silent
        return
    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = ("{task.description}", BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)

        def advance(done: int, total: int | None = None) -> None:
            bar.update(task, completed=done, total=total)

        yield advance
