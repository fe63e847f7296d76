"""The command line. What a command needs is imported when it runs."""

import contextlib
import itertools
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

try:
    import click
except ImportError:  # one line instead of a traceback: this module is only ever imported to be run
    raise SystemExit("fastmnv2: the command line needs click: pip install 'fastmnv2[cli]'") from None

import numpy as np

from fastmnv2 import image, network
from fastmnv2._version import __version__
from fastmnv2.cli_train import train
from fastmnv2.errors import CONTROLS

if TYPE_CHECKING:
    from fastmnv2.image.given import Pictures
    from fastmnv2.model import Model
    from fastmnv2.outputs import Writer
    from fastmnv2.progress import Advance

CLASSES = network.CLASSES
_ROWS = 64  # that are handed to a writer together
_KINDS = 4  # of files left out that a summary names
_DEMO_PICTURES = 12  # the table's width

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Item = TypeVar("_Item")


def _shown(name: object) -> str:
    """A file's name, or what a file says, as text that a terminal shows and that stays in its line."""
    return click.format_filename(str(name)).translate(CONTROLS)


class _Commands(click.Group):
    """Turns the exceptions that the package documents into one line on stderr and an exit code."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _shown_errors():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _shown_errors():
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
def _shown_errors() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        raise click.UsageError(_shown(error.format_message()), error.ctx) from None
    except click.ClickException as error:
        raise click.ClickException(_shown(error.format_message())) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fastmnv2")
def cli() -> None:
    """MobileNet V2 0.75/96 image feature vectors on the CPU."""


_WEIGHTS = click.option(
    "--weights", metavar="W", help='File or folder with weights, "imagenet" (default) or "untrained".'
)
_PRECISION = click.option(
    "--precision",
    type=click.Choice(["float32", "int8"]),
    default="float32",
    show_default=True,
    help="int8: an 8-bit file's own integers.",
)
_THREADS = click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: every usable CPU.")
_PICTURES = (
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
        help="How pictures become 96x96: sampled as TensorFlow 2 or 1 does, or averaged.",
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


def _with(*options: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _suffix(*allowed: str) -> Callable[[click.Context, click.Parameter, str], Path]:
    def check(_ctx: click.Context, _param: click.Parameter, value: str) -> Path:
        if Path(value).suffix.lower() not in allowed:
            raise click.BadParameter(f"expected a name ending in {', '.join(allowed)}, got {value!r}")
        return Path(value)

    return check


_FILES = (".npy", ".npz", ".csv", ".parquet")


def _output(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[Path, bool]:
    """The path, and whether it is a folder, which a pathlib.Path forgets."""
    known = Path(value).suffix.lower() in _FILES
    folder = value.endswith(("/", os.sep)) or (Path(value).is_dir() and not known)
    if not folder and not known:
        raise click.BadParameter(f"expected a name ending in {', '.join(_FILES)}, or a FOLDER/, got {value!r}")
    return Path(value), folder


def _find(
    paths: tuple[str, ...],
    *,
    listed: str | None = None,
    null: bool = False,
    recursive: bool = True,
    batch_size: int = 64,
    **how: Any,
) -> "Pictures":
    from fastmnv2.image.decode import Options
    from fastmnv2.image.given import Pictures

    def skip(path: str, why: str) -> None:
        print(_shown(f"skipped {path}: {why}"), file=sys.stderr, flush=True)  # click.echo would write into the bar

    if not paths and listed is None:
        raise click.UsageError("expected PATH..., - for paths on standard input, or --from FILE")
    options = Options(**how)
    found = Pictures(paths, skip, listed=listed, null=null, recursive=recursive, options=options, batch_size=batch_size)
    if found.total == 0:
        raise click.ClickException(f"no picture found in {', '.join(paths)}{_others(found)}")
    return found


def _others(pictures: "Pictures") -> str:
    """What a search of folders left out, which may not be what its user means it to."""
    if not pictures.others:
        return ""
    kinds = [suffix or "no suffix" for suffix, _ in pictures.others.most_common(_KINDS)]
    more = ["…"] if len(pictures.others) > _KINDS else []
    return f"; {_count(pictures.others.total(), 'file')} of other kinds left out ({', '.join(kinds + more)})"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _check_some(pictures: "Pictures") -> None:
    if not pictures.read:
        raise click.ClickException(f"none of {_count(pictures.skipped, 'file')} could be read as a picture")


def _check_missing(pictures: "Pictures") -> None:
    """Exit code 1 if something that was named is not there: the rest is done."""
    if pictures.missing:
        raise click.exceptions.Exit(1)


@cli.command()
@_with(*_PICTURES, _WEIGHTS, _THREADS)
@click.option(
    "-o",
    "--output",
    required=True,
    callback=_output,
    metavar="OUT",
    help="FILE.npy, .npz, .csv or .parquet, or FOLDER/.",
)
@click.option("--force", is_flag=True, help="Overwrite a FILE that is there. A FOLDER/ is added to.")
@click.option("--normalize", is_flag=True, help="Scale each feature vector to length 1.")
@click.option("--json", "as_json", is_flag=True, help="What was done, as one JSON object on standard output.")
@click.option("--float16", is_flag=True, help="FOLDER/: vectors of float16, half the size.")
@click.option("--prune", is_flag=True, help="FOLDER/: drop the rows of pictures that are gone.")
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="FOLDER/: who computes."
)
def embed(
    paths: tuple[str, ...],
    output: tuple[Path, bool],
    weights: str | None,
    threads: int | None,
    force: bool,
    normalize: bool,
    as_json: bool,
    float16: bool,
    prune: bool,
    engine: str,
    **find: Any,
) -> None:
    """Write the features of pictures to a file, or to a folder for long jobs.

    PATH is a picture, a folder, a quoted glob, or - for paths on standard input.

    \b
    .npy      float32 [n,1280], and after it, in the same file, the paths: both
              by numpy.load(file) twice of the open file, the first by its name
    .npz      arrays features and paths
    .csv      columns path, f0 ... f1279
    .parquet  columns path and features; needs fastmnv2[parquet]
    FOLDER/   parts of 10,000 rows in parquet; started again, it goes on where it
              stopped, and takes in what is new or changed

    Rows are sorted by path, or as listed. What can't be read is named and left out; if nothing can, FILE is not
    written and the exit code is 1. So it is, with FILE written, if a path that was named is not there.
    """  # noqa: D301 -- click's own mark
    import fastmnv2

    target, folder = output
    if not folder and (float16 or prune or engine != "local"):
        raise click.UsageError("--float16, --prune and --engine are for -o FOLDER/")
    if not folder and target.is_file() and not force:
        raise click.ClickException(f"{target} is there already; --force overwrites it")
    if folder:
        from fastmnv2 import jobs

        how = jobs.Settings(normalize=normalize, float16=float16, prune=prune, engine=engine, threads=threads)
        pictures = _find(paths, **find)
        model = fastmnv2.load(weights, threads=threads)
        counts = jobs.embed_to_folder(model, pictures, target, how)
    else:
        from fastmnv2 import outputs

        with outputs.open_output(target) as writer:
            pictures = _find(paths, **find)
            model = fastmnv2.load(weights, threads=threads)
            _embed_to_file(model, pictures, writer, normalize)
            _check_some(pictures)
        counts = {"pictures": pictures.read}
    if as_json:
        more = {"skipped": pictures.skipped, "other_files": pictures.others.total(), "weights": model.weights}
        click.echo(json.dumps({"output": str(target), **counts, **more}))
    else:
        told = [f"{number:,} {what}" for what, number in counts.items() if what != "pictures"]
        told += [f"{pictures.skipped:,} skipped"]
        weights_used = f"{model.weights['form']}, {model.weights['origin']}"
        vectors = f"features of {_count(counts['pictures'], 'picture')}, {', '.join(told)}{_others(pictures)}"
        click.echo(_shown(f"{target}: {vectors}; weights: {weights_used}"), err=True)
    _check_missing(pictures)


def _embed_to_file(model: "Model", pictures: "Pictures", writer: "Writer", normalize: bool) -> None:
    from fastmnv2.progress import progress

    def compute(images: Any, threads: int) -> Any:
        return model.embed(images, threads=threads, normalize=normalize)

    results = pictures.results(compute, model.thread_count())
    with contextlib.closing(results), progress("embedding", pictures.total, unit="pictures") as advance:
        told = _telling(results, pictures, advance)
        while batch := list(itertools.islice(told, _ROWS)):
            writer.append([name for name, _ in batch], np.stack([vector for _, vector in batch]))


def _telling(results: Iterable[_Item], pictures: "Pictures", advance: "Advance") -> Iterator[_Item]:
    """The same, telling a progress bar of each."""
    for result in results:
        advance(pictures.read + pictures.skipped)
        yield result


@cli.command()
@_with(*_PICTURES, _WEIGHTS, _THREADS)
@click.option(
    "--labels", metavar="FILE", help="Names of the classes, one a line; of ImageNet's 1001, or of the last 1000."
)
@click.option("--top", type=click.IntRange(1), metavar="K", help="How many classes.  [default: 5, or all if fewer]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def classify(
    paths: tuple[str, ...],
    labels: str | None,
    top: int | None,
    as_json: bool,
    weights: str | None,
    threads: int | None,
    batch_size: int,
    **find: Any,
) -> None:
    """Print path, class and probability of pictures (files, folders, quoted globs), tab-separated."""
    import fastmnv2
    from fastmnv2.progress import progress, silent

    pictures = _find(paths, **find)
    model = fastmnv2.load(weights, threads=threads)
    model.classify(np.empty((0, *image.SIZE, 3), np.float32), top=top)  # if it can't, say so before decoding
    names: Sequence[str] | None = model.classes
    if labels is not None:
        names = _lines(Path(labels), len(model.classes)) if model.classes else _read_labels(Path(labels))

    def compute(images: Any, count: int) -> list[tuple[Any, Any]]:
        return list(zip(*model.classify(images, top=top, threads=count), strict=True))

    results = pictures.results(compute, model.thread_count())
    quiet = sys.stdout.isatty()  # the lines themselves show how far it is
    bar = contextlib.nullcontext(silent) if quiet else progress("classifying", pictures.total, unit="pictures")
    with contextlib.closing(results), bar as advance:
        for path, (row, values) in _telling(results, pictures, advance):
            if as_json:
                classes = [
                    {"index": i, **({"label": names[i]} if names else {}), "probability": float(str(p))}
                    for i, p in zip(row.tolist(), values, strict=True)
                ]
                click.echo(json.dumps({"path": path, "classes": classes}))
                continue
            for i, p in zip(row.tolist(), values, strict=True):
                click.echo(f"{_shown(path)}\t{_shown(names[i] if names else i)}\t{p:.4f}")
    if pictures.others:
        click.echo(_shown(_others(pictures).removeprefix("; ")), err=True)
    _check_some(pictures)
    _check_missing(pictures)


def _read_labels(path: Path) -> list[str]:
    """One label for each class index. ValueError if the file has neither 1001 nor 1000 lines of text."""
    lines = _lines(path)
    if len(lines) == CLASSES - 1:
        lines = ["background", *lines]
    if len(lines) != CLASSES:
        raise ValueError(
            f"{path}: expected {CLASSES} labels, one a line, or {CLASSES - 1} without background; got {len(lines)}"
        )
    return lines


def _lines(path: Path, count: int | None = None) -> list[str]:
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


@cli.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite DST.")
@click.option("--head/--no-head", default=True, help="Keep what stands behind the pooling (default).")
@click.option("--classes", metavar="FILE", help="Names of the head's classes, one a line.")
@click.option("--input-range", type=(float, float), metavar="BLACK WHITE", help="What the network takes; see load.")
@_PRECISION
def convert(
    source: str,
    target: Path,
    force: bool,
    precision: str,
    head: bool,
    classes: str | None,
    input_range: tuple[float, float] | None,
) -> None:
    """Write weights of any form to another, by DST's suffix.

    \b
    .safetensors    the native form, which loads fastest
    .keras, .h5     a Keras model; needs fastmnv2[train]
    .tflite, .onnx  for other engines; need fastmnv2[tensorflow], fastmnv2[onnx]
    no suffix       a folder with a TF2 SavedModel; needs fastmnv2[tensorflow]

    SRC is a TF1 hub module (folder, archive or URL), a TF-Slim checkpoint, a Keras or TFLite file, or a name
    ("imagenet", "untrained").
    """  # noqa: D301 -- click's own mark
    if target.exists() and not force:
        raise click.ClickException(f"{target} is there already; --force overwrites it")
    if not target.parent.is_dir():
        raise click.ClickException(f"{target}: there is no folder {str(target.parent)!r} to write it to")
    from fastmnv2 import export
    from fastmnv2.weights.resolve import adapted

    names = _lines(Path(classes)) if classes is not None else None
    found = adapted(source, input_range=input_range, head=head, classes=names, precision=precision)
    folded = export.write(target, found)
    click.echo(f"form     {folded.form}")
    click.echo(f"origin   {_shown(folded.origin)}")
    click.echo(f"sha256   {folded.sha256}")
    click.echo(f"tensors  {len(folded.tensors)}, logits layer {'included' if folded.has_logits else 'not there'}")
    for note in folded.notes:
        click.echo(f"note     {note}")
    size = sum(path.stat().st_size for path in (target.rglob("*") if target.is_dir() else [target]) if path.is_file())
    click.echo(f"wrote    {_shown(target)}, {size:,} bytes")


@cli.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST.safetensors", callback=_suffix(".safetensors"))
@click.option(
    "--calibrate",
    "paths",
    multiple=True,
    required=True,
    metavar="PATH",
    help="Pictures or folders of them; repeatable.",
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Draw the report.")
@click.option("--force", is_flag=True, help="Overwrite DST.")
@_with(_THREADS)
def quantize(
    source: str, target: Path, paths: tuple[str, ...], plot: Path | None, force: bool, threads: int | None
) -> None:
    """Make an int8 network of float weights SRC, calibrated on pictures.

    At least 5 pictures, a few dozen are enough; every fifth is held out, for the report on how near it is to float32.
    """
    if target.exists() and not force:
        raise click.ClickException(f"{target} is there already; --force overwrites it")
    import fastmnv2
    from fastmnv2.image.find import find

    def skip(path: str, why: object) -> None:
        click.echo(f"skipped {click.format_filename(path)}: {why}", err=True)

    pictures = []
    for path in find(paths, skip).paths:
        try:
            pictures.append(image.load_image(path))
        except (ValueError, OSError) as error:
            skip(path, error)
    if not pictures:
        raise click.ClickException("no picture found to calibrate on")
    report = fastmnv2.quantize(source, target, np.stack(pictures), threads=threads)
    for line in report.lines():
        click.echo(line)
    if plot:
        report.plot(plot)
    click.echo(f"wrote    {target}, {target.stat().st_size:,} bytes")


@cli.command()
@_WEIGHTS
@click.option("--json", "as_json", is_flag=True)
def info(weights: str | None, as_json: bool) -> None:
    """Print what a bug report needs."""
    import fastmnv2

    found = fastmnv2.info(weights)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        nested = value.items() if isinstance(value, dict) else [("", value)]
        for name, part in nested:
            text = ", ".join(map(str, part)) if isinstance(part, list) else part
            click.echo(f"{(key + ' ' + name).strip():<20} {_shown(text)}")


@cli.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@_with(_WEIGHTS, _THREADS)
def demo(paths: tuple[str, ...], weights: str | None, threads: int | None) -> None:
    """Embed a few sample pictures, or yours, and print similarities and timings. Uses no network."""
    from fastmnv2 import demo as _demo

    if not paths:
        chosen = _demo.samples()
    else:
        pictures = _find(paths)
        # In a folder of thousands the first dozen will do.
        del pictures.found[_DEMO_PICTURES:]
        chosen = _demo.decoded(pictures)
        _check_some(pictures)
    _demo.run(weights, threads, chosen, click.echo)


@cli.command()
@click.option("--layers", is_flag=True, help="Each layer's time, on one thread.")
@click.option("-n", "n", type=click.IntRange(1, 4096), help="Images a call.  [default: 1, and 8 and 32]")
@_THREADS
@_PRECISION
@click.option("--weights", default="untrained", show_default=True, metavar="W", help="Times don't depend on them.")
def bench(layers: bool, n: int | None, threads: int | None, weights: str, precision: str) -> None:
    """Time calls, or layers, against this processor's multiply-add peak."""
    import fastmnv2
    from fastmnv2 import profile
    from fastmnv2 import threads as _threads

    model = fastmnv2.load(weights, precision=precision)
    if not layers:
        click.echo(f"{'images':>6} {'threads':>7} {'median ms':>10} {'p99 ms':>8} {'images/s':>9} {'of peak':>8}")
        for batch in (n,) if n else (1, 8, 32):
            for count in sorted({threads} if threads else {1, _threads.available()}):
                call = profile.calls(model, batch, count)
                click.echo(
                    f"{batch:>6} {count:>7} {call.median * 1e3:>10.3f} {call.p99 * 1e3:>8.3f} "
                    f"{batch / call.median:>9,.0f} {call.share:>8.0%}"
                )
        if line := profile.ping():
            click.echo(f"a cache line takes {line * 1e9:.0f} ns from core to core")
        return
    if threads not in (None, 1):
        raise click.UsageError(f"--layers counts on one thread, not {threads}")
    rows = profile.layers(model, n=n or 1)
    click.echo(f"{'layer':<27} {'kind':<9} {'MMACs':>8} {'KB':>7} {'us':>8} {'of peak':>8}")
    kinds = dict.fromkeys(row.kind for row in rows)
    totals = [("all " + kind, "", [row for row in rows if row.kind == kind]) for kind in kinds]
    for name, kind, part in [*((row.name, row.kind, [row]) for row in rows), *totals, ("all layers", "", rows)]:
        amount, seconds = sum(row.macs for row in part), sum(row.seconds for row in part)
        click.echo(
            f"{name:<27} {kind:<9} {amount / 1e6:>8.3f} {sum(row.bytes for row in part) / 1024:>7.0f} "
            f"{seconds * 1e6:>8.1f} {amount / seconds / rows[0].peak:>8.0%}"
        )


cli.add_command(train)


def main() -> None:
    """Run the command line and exit."""

    def stop(number: int, _frame: Any) -> None:
        sys.exit(128 + number)  # unwinds, so that temporary files are removed

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores one
            signal.signal(number, stop)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # broken metadata in pictures that decode all the same
    try:
        cli(prog_name="fastmnv2")
    except KeyboardInterrupt:
        sys.exit(130)
