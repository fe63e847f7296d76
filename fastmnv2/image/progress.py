"""The one progress bar: on stderr, if that is a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(total: int | None, wanted: bool = True) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes how many are done.

    Draws how many are done, pictures a second and the time left, where that is ``wanted``, stderr is a terminal and
    rich is installed (it comes with ``fastmnv2[cli]``). ``total`` is None if it is not known.
    """
    if not (wanted and sys.stderr.isatty()):
        yield lambda done: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda done: None
        return

    class Speed(TextColumn):
        def __init__(self) -> None:
            super().__init__("")

        def render(self, task: Task):  # type: ignore[no-untyped-def]  # noqa: ANN202 -- rich's Text
            self.text_format = f"{task.finished_speed or task.speed or 0:,.0f} pictures/s"
            return super().render(task)

    columns = (BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn(elapsed_when_finished=True))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)
