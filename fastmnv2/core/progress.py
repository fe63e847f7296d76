"""One progress bar for all that takes long: on standard error, if that is a terminal."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

from fastmnv2.core.errors import CONTROLS


class Advance(Protocol):
    """Takes how much is done, and of how much in all where that has become known."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """Draw that."""


def silent(done: int, total: int | None = None) -> None:
    """For where no bar is wanted."""


@contextlib.contextmanager
def progress(what: str, total: int | None = None, *, in_bytes: bool = False, unit: str = "") -> Iterator[Advance]:
    """Yields a function to be told how much is done; draws a bar while the block runs.

    With a ``unit``, such as "pictures", it also tells how many of them a second.

    Nothing is drawn where standard error is no terminal; without rich, ``what`` is printed there once.
    """
    if not sys.stderr.isatty():
        yield silent
        return
    try:
        from rich import markup
        from rich import progress as rich
        from rich.console import Console
    except ImportError:
        print(what, file=sys.stderr)
        yield silent
        return
    amount = rich.DownloadColumn() if in_bytes else rich.MofNCompleteColumn()
    speed = (rich.TextColumn("{task.fields[speed]}"),) if unit else ()
    columns = ("{task.description}", rich.BarColumn(), amount, *speed, rich.TimeRemainingColumn())
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(markup.escape(what.translate(CONTROLS)), total=total, speed="")

        def advance(done: int, total: int | None = None) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, speed=f"{speed:,.0f} {unit}/s" if speed else "")

        yield advance
