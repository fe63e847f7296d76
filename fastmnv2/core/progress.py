"""The progress bar for long operations: on standard error, if that is a terminal."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

from fastmnv2.core.errors import CONTROLS


class Advance(Protocol):
    """Called with the amount done and, once it is known, the total."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """Draw the new state."""


def silent(done: int, total: int | None = None) -> None:
    """Draw nothing."""


@contextlib.contextmanager
def progress(what: str, total: int | None = None, *, in_bytes: bool = False, unit: str = "") -> Iterator[Advance]:
    """Draw a bar labelled ``what`` while the block runs. Yields the function to call with the amount done.

    With a ``unit``, such as "pictures", the bar also shows units per second. If standard error is not a terminal,
    nothing is drawn. If rich is not installed, ``what`` is printed instead of a bar.
    """
    if sys.stderr is None or not sys.stderr.isatty():  # None: closed, or a program without a console
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
