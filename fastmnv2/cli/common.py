"""Shared parts of the commands: options, finding the named pictures, and reporting errors."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fastmnv2.core.arguments import PRECISIONS
from fastmnv2.core.errors import CONTROLS
from fastmnv2.image import MAX_PIXELS
from fastmnv2.image.resizing import METHODS

if TYPE_CHECKING:
    from fastmnv2.core.errors import ImageError
    from fastmnv2.image.find import Found
    from fastmnv2.image.inputs import Pictures

_NAMED_SUFFIXES = 4  # maximum number of suffixes that a summary of left-out files lists

Command = TypeVar("Command", bound=Callable[..., Any])


def shown(name: object) -> str:
    """A file's name, or text from a file, as one line that is safe for a terminal."""
    return click.format_filename(str(name)).translate(CONTROLS)


class Commands(click.Group):
    """Turns the package's documented exceptions into one line on stderr and an exit code."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Parse the arguments, reporting errors as ``invoke`` does."""
        with shown_errors():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the named command."""
        with shown_errors():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            click.echo(shown(str(error) or "interrupted"), err=True)
            raise click.exceptions.Exit(130) from None
        except BrokenPipeError:  # click handles this
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
    """Make the text of errors safe for a terminal."""
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
    type=click.Choice(PRECISIONS),
    help="int8 computes with an 8-bit file's own integers, float32 dequantises them.  "
    "[default: int8 for native 8-bit files, float32 for all others]",
)
THREADS = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="Maximum number of threads.  [default: every usable CPU]"
)
FORCE = click.option("--force", is_flag=True, help="Overwrite files that exist already.")
FOLLOW_LINKS = click.option(
    "--follow-links", is_flag=True, help="Search folders within folders that are symbolic links too."
)
SOURCES = (
    click.argument("paths", nargs=-1, metavar="PATH..."),
    click.option(
        "--from", "listed", metavar="FILE", help="Read paths or URLs from FILE, one per line, in UTF-8 or UTF-16."
    ),
    click.option("-0", "null", is_flag=True, help="Names in lists end with NUL, as written by find -print0."),
    click.option("--recursive/--no-recursive", default=True, show_default=True, help="Search folders within folders."),
    FOLLOW_LINKS,
    click.option(
        "--batch-size",
        type=click.IntRange(1, 4096),
        default=64,
        show_default=True,
        metavar="N",
        help="Pictures held in memory at a time.",
    ),
)
DECODING = (
    click.option(
        "--crop",
        type=click.Choice(["center"]),
        metavar="center",
        help="Resize the largest window in the middle that has the network's aspect ratio.  [default: whole picture]",
    ),
    click.option(
        "--background",
        metavar="COLOUR",
        help='Colour behind transparent parts: "#rrggbb", white or black.  [default: alpha is dropped]',
    ),
    click.option(
        "--method",
        type=click.Choice(METHODS),
        default="tf2",
        show_default=True,
        help="How pictures are resized: tf2 and tf1 sample as TensorFlow 2 and 1 do, area averages.",
    ),
    click.option(
        "--decode",
        type=click.Choice(["exact", "scaled"]),
        default="exact",
        show_default=True,
        help="scaled decodes large JPEGs at a fraction of their size: faster, but the features differ.",
    ),
    click.option(
        "--exif/--no-exif",
        default=True,
        show_default=True,
        help="Turn pictures upright by their EXIF orientation; TensorFlow doesn't.",
    ),
    click.option(
        "--max-pixels",
        type=click.IntRange(min=1),
        default=MAX_PIXELS,
        show_default=True,
        metavar="N",
        help="Skip pictures with more pixels.",
    ),
)
"""Command-line options for the fields of ``image.options.Options``, under the same names."""
PICTURES = (*SOURCES, *DECODING)
CLASSES = "Names of the head's classes, one per line."


def examples(*commands: str) -> str:
    """Examples for the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def with_options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """A decorator that adds options to a command, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def suffix(*allowed: str) -> Callable[[click.Context, click.Parameter, str], Path]:
    """A click callback that checks that a name ends in one of these suffixes."""

    def check(_ctx: click.Context, _param: click.Parameter, value: str) -> Path:
        if Path(value).suffix.lower() not in allowed:
            raise click.BadParameter(f"expected a name ending in {', '.join(allowed)}, got {value!r}")
        return Path(value)

    return check


def distinct(**files: "str | Path | None") -> None:
    """Raise a usage error if two options or arguments name the same file, so that one would overwrite the other."""
    seen: dict[str, str] = {}
    for option, path in files.items():
        if path is None or str(path) == "-":
            continue
        place = os.path.normcase(os.path.realpath(path))
        if place in seen:
            raise click.UsageError(f"{seen[place]} and {option} name the same file, {str(path)!r}")
        seen[place] = option


def check_free(path: Path, *, force: bool) -> None:
    """Raise an error if a file exists and may not be overwritten, or if its folder does not exist."""
    if path.exists() and not force:
        raise click.ClickException(f"{path} exists already; --force overwrites it")
    if not path.parent.is_dir():
        raise click.ClickException(f"{path}: there is no folder {str(path.parent)!r} to write it to")


def report_skipped(path: object, why: object) -> None:
    """Print the line on standard error for a skipped picture."""
    print(shown(f"skipped {path}: {why}"), file=sys.stderr, flush=True)  # click.echo would write into the bar


def report_error(error: "ImageError") -> None:
    """Report a skipped picture's error; a handler for ``on_error``."""
    report_skipped(error.name, error.reason)


def find_pictures(
    paths: tuple[str, ...],
    *,
    listed: str | None = None,
    null: bool = False,
    recursive: bool = True,
    follow_links: bool = False,
    batch_size: int = 64,
    **decoding: Any,
) -> "Pictures":
    """Pictures that are named, listed, or in named folders. ``decoding`` has the fields of ``Options``."""
    from fastmnv2.image.decode import Options
    from fastmnv2.image.inputs import Pictures

    if not paths and listed is None:
        raise click.UsageError("expected PATH..., - for paths on standard input, or --from FILE")
    found = Pictures(
        paths,
        report_skipped,
        listed=listed,
        null=null,
        recursive=recursive,
        follow_links=follow_links,
        options=Options(**decoding),
        batch_size=batch_size,
    )
    if found.total == 0:
        raise click.ClickException("; ".join([f"no picture found in {', '.join(paths)}", *left_out(found)]))
    return found


def left_out(found: "Pictures | Found") -> list[str]:
    """Phrases for the files and linked folders that a search left out, because users may not expect that."""
    parts = []
    if found.others:
        suffixes = [suffix or "no suffix" for suffix, _ in found.others.most_common(_NAMED_SUFFIXES)]
        more = ["…"] if len(found.others) > _NAMED_SUFFIXES else []
        parts.append(f"{count(found.others.total(), 'file')} of other kinds left out ({', '.join(suffixes + more)})")
    if found.links:
        parts.append(f"{count(len(found.links), 'linked folder')} left out (--follow-links searches them)")
    return parts


def report_left_out(found: "Pictures | Found") -> None:
    """Print on standard error what a search of folders left out, if anything."""
    if parts := left_out(found):
        click.echo(shown("; ".join(parts)), err=True)


def count(number: int, what: str) -> str:
    """A number with a noun: "1 file", "2,000 files"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def check_some(pictures: "Pictures") -> None:
    """Raise an error if no picture could be read."""
    if not pictures.read:
        raise click.ClickException(f"none of {count(pictures.skipped, 'file')} could be read as a picture")


def check_missing(pictures: "Pictures") -> None:
    """Exit with code 1 if a named path does not exist, after everything else is done."""
    if pictures.missing:
        raise click.exceptions.Exit(1)


def read_lines(path: Path, count: int | None = None) -> list[str]:
    """Labels, one per line. ValueError if the file is too large or not text, or does not have ``count`` labels."""
    with path.open("rb") as file:
        data = file.read((1 << 20) + 1)
    if len(data) > 1 << 20:
        raise ValueError(f"{path}: expected a file of labels, one per line; got {len(data)} bytes or more")
    try:
        # Not splitlines, which also splits at form feeds, U+2028 and other characters within a line.
        text = data.decode("utf-8-sig").removesuffix("\n")
        lines = [line.strip() for line in text.split("\n")] if text else []
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected labels in UTF-8, one per line: {error}") from error
    if count is not None and len(lines) != count:
        raise ValueError(f"{path}: expected {count} labels, one per line, got {len(lines)} lines")
    return lines
