"""The command line. What a command needs is imported when it runs."""

import json
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

try:
    import click
except ImportError:  # one line instead of a traceback: this module is only ever imported to be run
    raise SystemExit("fastmnv2: the command line needs click: pip install 'fastmnv2[cli]'") from None

import numpy as np

from fastmnv2 import image, network
from fastmnv2._version import __version__

if TYPE_CHECKING:
    from fastmnv2.image.stream import Pictures

CLASSES = network.CLASSES
_DEMO_PICTURES = 12  # the table's width

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Commands(click.Group):
    """Turns the exceptions that the package documents into one line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
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


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fastmnv2")
def cli() -> None:
    """MobileNet V2 0.75/96 image feature vectors on the CPU."""


_WEIGHTS = click.option(
    "--weights", metavar="W", help='File or folder with weights, "imagenet" (default) or "untrained".'
)
_THREADS = click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: every usable CPU.")
_PICTURES = (
    click.argument("paths", nargs=-1, required=True, metavar="PATH..."),
    click.option("--recursive/--no-recursive", default=True, help="Search folders within folders (default)."),
    click.option("--exif/--no-exif", help="Turn pictures as their EXIF orientation says; TensorFlow does not."),
    click.option(
        "--max-pixels",
        type=click.IntRange(min=1),
        default=image.MAX_PIXELS,
        show_default=True,
        metavar="N",
        help="Skip larger pictures.",
    ),
    click.option("--batch-size", type=click.IntRange(1, 4096), default=32, show_default=True, metavar="N"),
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


def _find(paths: Iterable[str], **options: Any) -> "Pictures":
    from fastmnv2.image.stream import Pictures

    def skip(path: str, why: str) -> None:
        click.echo(f"skipped {click.format_filename(path)}: {why}", err=True)

    found = Pictures(paths, skip, **options)
    if not found.paths:
        raise click.ClickException(f"no picture found in {', '.join(map(click.format_filename, paths))}")
    return found


def _check_some(pictures: "Pictures") -> None:
    if not pictures.read:
        raise click.ClickException(f"none of {pictures.skipped} files could be read as a picture")


@cli.command()
@_with(*_PICTURES, _WEIGHTS, _THREADS)
@click.option(
    "-o",
    "--output",
    required=True,
    callback=_suffix(".npy", ".npz", ".csv", ".parquet"),
    metavar="FILE",
    help="FILE.npy, .npz, .csv or .parquet.",
)
@click.option("--normalize", is_flag=True, help="Scale each feature vector to length 1.")
def embed(
    paths: tuple[str, ...],
    output: Path,
    weights: str | None,
    threads: int | None,
    batch_size: int,
    normalize: bool,
    **find: Any,
) -> None:
    """Write the features of pictures (files, folders, quoted globs) to FILE.

    \b
    .npy      float32 [n,1280], and the paths, one a line, in FILE.paths.txt
    .npz      arrays features and paths
    .csv      columns path, f0 ... f1279
    .parquet  columns path and features; needs fastmnv2[parquet]

    Rows are sorted by path. What can't be read is named and left out; if nothing can, FILE is not written
    and the exit code is 1.
    """  # noqa: D301 -- click's own mark
    import fastmnv2
    from fastmnv2 import outputs
    from fastmnv2.progress import progress

    with outputs.open_output(output) as writer:
        pictures = _find(paths, **find)
        outputs.check_paths(output, pictures.paths)
        model = fastmnv2.load(weights, threads=threads)
        with progress("embedding", len(pictures.paths)) as advance:
            for names, images in pictures.batches(batch_size):
                writer.append(names, model.embed(images, normalize=normalize))
                advance(pictures.read + pictures.skipped)
        _check_some(pictures)
    click.echo(
        f"{output}: features of {pictures.read} pictures, {pictures.skipped} skipped; "
        f"weights: {model.weights['form']}, {model.weights['origin']}",
        err=True,
    )


@cli.command()
@_with(*_PICTURES, _WEIGHTS, _THREADS)
@click.option("--labels", metavar="FILE", help="Names of the 1001 classes (or of the last 1000), one a line.")
@click.option("--top", type=click.IntRange(1, CLASSES), default=5, show_default=True, metavar="K")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def classify(
    paths: tuple[str, ...],
    labels: str | None,
    top: int,
    as_json: bool,
    weights: str | None,
    threads: int | None,
    batch_size: int,
    **find: Any,
) -> None:
    """Print path, class and probability of pictures (files, folders, quoted globs), tab-separated."""
    import fastmnv2

    names = _read_labels(Path(labels)) if labels is not None else None
    pictures = _find(paths, **find)
    model = fastmnv2.load(weights, threads=threads)
    model.logits(np.empty((0, *image.SIZE, 3), np.float32))  # without that layer, say so before decoding
    for batch, images in pictures.batches(batch_size):
        indices, probabilities = model.classify(images, top=top)
        for path, row, values in zip(batch, indices.tolist(), probabilities, strict=True):
            if as_json:
                classes = [
                    {"index": i, **({"label": names[i]} if names else {}), "probability": float(str(p))}
                    for i, p in zip(row, values, strict=True)
                ]
                click.echo(json.dumps({"path": path, "classes": classes}))
                continue
            for i, p in zip(row, values, strict=True):
                click.echo(f"{click.format_filename(path)}\t{names[i] if names else i}\t{p:.4f}")
    _check_some(pictures)


def _read_labels(path: Path) -> list[str]:
    """One label for each class index. ValueError if the file has neither 1001 nor 1000 lines of text."""
    with path.open("rb") as file:
        data = file.read((1 << 20) + 1)
    try:
        lines = data.decode("utf-8-sig").splitlines() if len(data) <= 1 << 20 else []
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected labels in UTF-8, one a line: {error}") from error
    if len(lines) == CLASSES - 1:
        lines = ["background", *lines]
    if len(lines) != CLASSES:
        got = f"{len(lines)} lines" if lines else f"{len(data)} bytes or more"
        raise ValueError(
            f"{path}: expected {CLASSES} labels, one a line, or {CLASSES - 1} without background; got {got}"
        )
    return [line.strip() for line in lines]


@cli.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite DST.")
@click.option("--head/--no-head", default=True, help="Keep what stands behind the pooling (default).")
@click.option("--classes", metavar="FILE", help="Names of the head's classes, one a line.")
@click.option("--input-range", type=(float, float), metavar="BLACK WHITE", help="What the network takes; see load.")
def convert(
    source: str,
    target: Path,
    force: bool,
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
    folded = export.write(target, adapted(source, input_range=input_range, head=head, classes=names))
    click.echo(f"form     {folded.form}")
    click.echo(f"origin   {folded.origin}")
    click.echo(f"sha256   {folded.sha256}")
    click.echo(f"tensors  {len(folded.tensors)}, logits layer {'included' if folded.has_logits else 'not there'}")
    for note in folded.notes:
        click.echo(f"note     {note}")
    size = sum(path.stat().st_size for path in (target.rglob("*") if target.is_dir() else [target]) if path.is_file())
    click.echo(f"wrote    {target}, {size:,} bytes")


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
            click.echo(f"{(key + ' ' + name).strip():<20} {text}")


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
        del pictures.paths[_DEMO_PICTURES:]
        batches = list(pictures.batches(_DEMO_PICTURES))
        _check_some(pictures)
        chosen = batches[0]
    _demo.run(weights, threads, chosen, click.echo)


@cli.command()
@click.option("--layers", is_flag=True, help="Each layer's time, on one thread.")
@click.option("-n", "n", type=click.IntRange(1, 4096), help="Images a call.  [default: 1, and 8 and 32]")
@_THREADS
@click.option("--weights", default="untrained", show_default=True, metavar="W", help="Times don't depend on them.")
def bench(layers: bool, n: int | None, threads: int | None, weights: str) -> None:
    """Time calls, or layers, against this processor's multiply-add peak."""
    import fastmnv2
    from fastmnv2 import profile
    from fastmnv2 import threads as _threads

    model = fastmnv2.load(weights)
    if not layers:
        click.echo(f"{'images':>6} {'threads':>7} {'median ms':>10} {'p99 ms':>8} {'images/s':>9} {'of peak':>8}")
        for batch in (n,) if n else (1, 8, 32):
            for count in sorted({threads} if threads else {1, _threads.available()}):
                call = profile.calls(model, batch, count)
                click.echo(
                    f"{batch:>6} {count:>7} {call.median * 1e3:>10.3f} {call.p99 * 1e3:>8.3f} "
                    f"{batch / call.median:>9,.0f} {call.share:>8.0%}"
                )
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


def main() -> None:
    """Run the command line and exit."""

    def stop(_signal: int, _frame: Any) -> None:
        sys.exit(143)  # unwinds, so that temporary files are removed

    signal.signal(signal.SIGTERM, stop)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # broken metadata in pictures that decode all the same
    try:
        cli(prog_name="fastmnv2")
    except KeyboardInterrupt:
        sys.exit(130)
