"""What several commands share: options, pictures that were named, and how errors are told."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fastmnv2 import image
from fastmnv2.core.errors import CONTROLS

if TYPE_CHECKING:
    from fastmnv2.image.given import Pictures

_KINDS = 4  # of files left out that a summary names

Command = TypeVar("Command", bound=Callable[..., Any])


def shown(name: object) -> str:
    """A file's name, or what a file says, as text that a terminal shows and that stays in its line."""
    return click.format_filename(str(name)).translate(CONTROLS)


class Commands(click.Group):
    """Turns the exceptions that the package documents into one line on stderr and an exit code."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Read the arguments, telling errors as ``invoke`` does."""
        with shown_errors():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        with shown_errors():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted; nothing was written", err=True)
            raise click.exceptions.Exit(130) from None
        except BrokenPipeError:  # click knows what to do
            raise
        except MemoryError as error:
            raise click.ClickException(f"not enough memory {error}".rstrip()) from None
        except OSError as error:
            text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
            raise click.ClickException(text) from None
        except (ValueError, ImportError) as error:
            raise click.ClickException(str(error)) from None


@contextlib.contextmanager
def shown_errors() -> Iterator[None]:
    """What errors quote, as text that a terminal shows."""
    try:
        yield
    except click.UsageError as error:
        raise click.UsageError(shown(error.format_message()), error.ctx) from None
    except click.ClickException as error:
        raise click.ClickException(shown(error.format_message())) from None


WEIGHTS = click.option(
    "--weights", metavar="W", help='File or folder with weights, "imagenet" (default) or "untrained".'
)
PRECISION = click.option(
    "--precision",
    type=click.Choice(["float32", "int8"]),
    default="float32",
    show_default=True,
    help="int8: an 8-bit file's own integers.",
)
THREADS = click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: every usable CPU.")
PICTURES = (
    click.argument("paths", nargs=-1, metavar="PATH..."),
    click.option("--from", "listed", metavar="FILE", help="Take the paths that stand in FILE, one a line."),
    click.option("-0", "null", is_flag=True, help="Listed paths end with NUL, as those of find -print0."),
    click.option("--recursive/--no-recursive", default=True, help="Search folders within folders (default)."),
    click.option(
        "--exif/--no-exif", default=True, help="Turn pictures as EXIF says (default); --no-exif is as TensorFlow does."
    ),
    click.option(
        "--max-pixels",
        type=click.IntRange(min=1),
        default=image.MAX_PIXELS,
        show_default=True,
        metavar="N",
        help="Skip larger pictures.",
    ),
    click.option(
        "--method",
        type=click.Choice(["tf2", "tf1", "area"]),
        default="tf2",
        show_default=True,
        help="How pictures are resized: sampled as TensorFlow 2 or 1 does, or averaged.",
    ),
    click.option(
        "--decode",
        type=click.Choice(["exact", "scaled"]),
        default="exact",
        show_default=True,
        help="scaled: decode large JPEGs at part of their size; faster, other features.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1, 4096),
        default=64,
        show_default=True,
        metavar="N",
        help="Pictures held at a time.",
    ),
)


def with_options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Options for a command, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def suffix(*allowed: str) -> Callable[[click.Context, click.Parameter, str], Path]:
    """A check that a name ends in one of these."""

    def check(_ctx: click.Context, _param: click.Parameter, value: str) -> Path:
        if Path(value).suffix.lower() not in allowed:
            raise click.BadParameter(f"expected a name ending in {', '.join(allowed)}, got {value!r}")
        return Path(value)

    return check


def find_pictures(
    paths: tuple[str, ...],
    *,
    listed: str | None = None,
    null: bool = False,
    recursive: bool = True,
    batch_size: int = 64,
    **how: Any,
) -> "Pictures":
    """The pictures that were named, listed, or lie in folders; what can't be read is told on standard error."""
    from fastmnv2.image.decode import Options
    from fastmnv2.image.given import Pictures

    def skip(path: str, why: str) -> None:
        print(shown(f"skipped {path}: {why}"), file=sys.stderr, flush=True)  # click.echo would write into the bar

    if not paths and listed is None:
        raise click.UsageError("expected PATH..., - for paths on standard input, or --from FILE")
    options = Options(**how)
    found = Pictures(paths, skip, listed=listed, null=null, recursive=recursive, options=options, batch_size=batch_size)
    if found.total == 0:
        raise click.ClickException(f"no picture found in {', '.join(paths)}{others(found)}")
    return found


def others(pictures: "Pictures") -> str:
    """What a search of folders left out, which may not be what its user means it to."""
    if not pictures.others:
        return ""
    kinds = [suffix or "no suffix" for suffix, _ in pictures.others.most_common(_KINDS)]
    more = ["…"] if len(pictures.others) > _KINDS else []
    return f"; {count(pictures.others.total(), 'file')} of other kinds left out ({', '.join(kinds + more)})"


def count(number: int, what: str) -> str:
    """A number of things, in words: "1 file", "2,000 files"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def check_some(pictures: "Pictures") -> None:
    """An error if nothing could be read."""
    if not pictures.read:
        raise click.ClickException(f"none of {count(pictures.skipped, 'file')} could be read as a picture")


def check_missing(pictures: "Pictures") -> None:
    """Exit code 1 if something that was named is not there: the rest is done."""
    if pictures.missing:
        raise click.exceptions.Exit(1)


def read_lines(path: Path, count: int | None = None) -> list[str]:
    """Labels, one a line. ValueError if it is not a small file of text, or has another number of them."""
    with path.open("rb") as file:
        data = file.read((1 << 20) + 1)
    if len(data) > 1 << 20:
        raise ValueError(f"{path}: expected a file of labels, one a line; got {len(data)} bytes or more")
    try:
        # Not splitlines, which knows ten ends of a line more than those who write labels.
        text = data.decode("utf-8-sig").removesuffix("\n")
        lines = [line.strip() for line in text.split("\n")] if text else []
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected labels in UTF-8, one a line: {error}") from error
    if count is not None and len(lines) != count:
        raise ValueError(f"{path}: expected {count} labels, one a line, got {len(lines)} lines")
    return lines
