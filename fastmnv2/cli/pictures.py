"""``fastmnv2 embed`` and ``fastmnv2 classify``."""

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import numpy as np

from fastmnv2.cli.common import (
    PICTURES,
    PRECISION,
    THREADS,
    WEIGHTS,
    check_missing,
    check_some,
    count,
    distinct,
    examples,
    find_pictures,
    left_out,
    read_lines,
    report_left_out,
    shown,
    with_options,
)

if TYPE_CHECKING:
    from fastmnv2.core.model import Model
    from fastmnv2.core.progress import Advance
    from fastmnv2.image.inputs import Pictures
    from fastmnv2.image.outputs import Writer

_ROWS = 64  # rows that a writer gets at a time

_Item = TypeVar("_Item")

_FILES = (".npy", ".npz", ".csv", ".parquet")


def _output(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[Path, bool]:
    """The output's path, and whether it is a folder: a pathlib.Path would lose the slash at its end."""
    known = Path(value).suffix.lower() in _FILES
    folder = value.endswith(("/", os.sep)) or (Path(value).is_dir() and not known)
    if not folder and not known:
        raise click.BadParameter(f"expected a name ending in {', '.join(_FILES)}, or a FOLDER/, got {value!r}")
    return Path(value), folder


@click.command(
    epilog=examples(
        "fastmnv2 embed photos/ -o features.npz",
        "fastmnv2 embed 'photos/**/*.jpg' -o features.csv --normalize",
        "find . -name '*.jpg' -print0 | fastmnv2 embed - -0 -o features.npy",
        "fastmnv2 embed /data/photos -o vectors/ --float16 --prune",
    )
)
@with_options(*PICTURES, WEIGHTS, PRECISION, THREADS)
@click.option(
    "-o",
    "--output",
    required=True,
    callback=_output,
    metavar="OUT",
    help="The file to write (.npy, .npz, .csv or .parquet), or FOLDER/ for a long job.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists already. A FOLDER/ is always added to.")
@click.option("--normalize", is_flag=True, help="Scale each feature vector to length 1.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as one JSON object on standard output.")
@click.option("--float16", is_flag=True, help="For FOLDER/: store float16, which takes half the space.")
@click.option("--prune", is_flag=True, help="For FOLDER/: drop the rows of pictures that no longer exist.")
@click.option(
    "--retry-errors",
    is_flag=True,
    help="For FOLDER/: retry all pictures with an error, not only those that this machine or the network caused.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="For FOLDER/: compute on this machine, or on the Ray cluster that RAY_ADDRESS names.",
)
def embed(
    paths: tuple[str, ...],
    output: tuple[Path, bool],
    weights: str | None,
    precision: Any,
    threads: int | None,
    force: bool,
    normalize: bool,
    as_json: bool,
    float16: bool,
    prune: bool,
    retry_errors: bool,
    engine: str,
    **find: Any,
) -> None:
    """Write the features of pictures to a file, or to a folder for long jobs.

    PATH is a picture, a folder, a quoted glob, a URL, or - for a list on standard input.

    \b
    .npy      float32 [n,features], then the paths in the same file: call numpy.load
              twice on the open file to read both
    .npz      arrays features and paths
    .csv      columns path, f0, f1 and so on
    .parquet  columns path and features; needs fastmnv2[parquet]
    FOLDER/   Parquet parts of 10,000 rows, with absolute paths. The next run resumes
              where the last one stopped, and adds new and changed pictures.

    Rows in a file are sorted by path, or in the order of the list. Pictures that can't be read are reported and
    skipped. If none can be read, FILE is not written and the exit code is 1. If a named path is missing, FILE is
    written, but the exit code is 1.

    In a FOLDER/, a picture that can't be read gets a row with the error. The next run retries it if this machine or
    the network was the cause, such as a missing permission or package; --retry-errors retries all. --prune drops
    nothing if a source can't be searched or no longer contains any picture, because its disk may not be mounted.
    """  # noqa: D301 -- click's own mark
    import fastmnv2

    target, folder = output
    if not folder and (float16 or prune or retry_errors or engine != "local"):
        raise click.UsageError("--float16, --prune, --retry-errors and --engine are for -o FOLDER/")
    if not folder and target.is_file() and not force:
        raise click.ClickException(f"{target} exists already; --force overwrites it")
    distinct(**{"--output": None if folder else target, "--from": find["listed"], "--weights": weights})
    if folder:
        from fastmnv2.image import jobs

        pictures = find_pictures(paths, **find)
        model = fastmnv2.load(weights, threads=threads, precision=precision)
        how = jobs.Settings(
            normalize=normalize, float16=float16, prune=prune, retry_errors=retry_errors, engine=engine, threads=threads
        )
        counts = jobs.embed_to_folder(model, pictures, target, how)
    else:
        from fastmnv2.image import outputs

        outputs.check_target(target)  # before the weights are loaded
        with _nothing_written(target):
            pictures = find_pictures(paths, **find)
            model = fastmnv2.load(weights, threads=threads, precision=precision)
            with outputs.open_output(target, model.network.features) as writer:
                _embed_to_file(model, pictures, writer, normalize)
                check_some(pictures)
        counts = {"pictures": pictures.read}
    if as_json:
        more = {
            "skipped": pictures.skipped,
            "other_files": pictures.others.total(),
            "linked_folders": len(pictures.links),
            "weights": model.weights,
        }
        click.echo(json.dumps({"output": str(target), **counts, **more}))
    else:
        click.echo(shown(f"{target}: {_summary(counts, pictures)}; weights: {_weights_used(model)}"), err=True)
    check_missing(pictures)


_COUNTS = {
    "errors": "with an error (--retry-errors tries them again)",
    "missing": "not found, but their rows kept because the folder is missing or empty",
}


def _summary(counts: dict[str, int], pictures: "Pictures") -> str:
    parts = [f"features of {count(counts['pictures'], 'picture')}"]
    parts += [f"{number:,} {_COUNTS.get(name, name)}" for name, number in counts.items() if name != "pictures"]
    return "; ".join([", ".join([*parts, f"{pictures.skipped:,} skipped"]), *left_out(pictures)])


def _weights_used(model: "Model") -> str:
    return f"{model.weights['form']}, {model.weights['origin']}, {model.precision}"


@contextlib.contextmanager
def _nothing_written(target: Path) -> Iterator[None]:
    """Make the message of an interruption say that the file was not written."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {target} was not written") from None


def _embed_to_file(model: "Model", pictures: "Pictures", writer: "Writer", normalize: bool) -> None:
    from fastmnv2.core.progress import progress

    def compute(images: Any, threads: int) -> Any:
        return model.embed(images, threads=threads, normalize=normalize)

    results = pictures.results(compute, model.thread_count(), model.network.size)
    with contextlib.closing(results), progress("embedding", pictures.total, unit="pictures") as advance:
        shown_results = _with_progress(results, pictures, advance)
        while batch := list(itertools.islice(shown_results, _ROWS)):
            writer.append([name for name, _ in batch], np.stack([vector for _, vector in batch]))


def _with_progress(results: Iterable[_Item], pictures: "Pictures", advance: "Advance") -> Iterator[_Item]:
    """Yield the results, and advance the progress bar at each."""
    for result in results:
        advance(pictures.read + pictures.skipped)
        yield result


@click.command(
    epilog=examples(
        "fastmnv2 classify photos/ --labels labels.txt --top 1",
        "fastmnv2 classify --weights flowers.safetensors new/",
        "fastmnv2 classify photo.jpg --json",
    )
)
@with_options(*PICTURES, WEIGHTS, PRECISION, THREADS)
@click.option(
    "--labels",
    metavar="FILE",
    help="Names of the classes, one per line: for all outputs, or for ImageNet's 1000 without background.  "
    "[default: the names in the weights, or else numbers]",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    metavar="K",
    help="Print the K most probable classes.  [default: 5, or all if fewer]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per picture, with index, label, probability."
)
def classify(
    paths: tuple[str, ...],
    labels: str | None,
    top: int | None,
    as_json: bool,
    weights: str | None,
    precision: Any,
    threads: int | None,
    **find: Any,
) -> None:
    """Print a line for each picture and class: path, class and probability, separated by tabs.

    PATH is a picture, a folder, a quoted glob, a URL, or - for a list on standard input. The classes are those of the
    weights' own head, such as one from "fastmnv2 train", or ImageNet's if there is no head.
    """
    import fastmnv2
    from fastmnv2.core.progress import progress, silent

    pictures = find_pictures(paths, **find)
    model = fastmnv2.load(weights, threads=threads, precision=precision)
    nothing = np.empty((0, *model.network.image_shape), np.float32)
    model.classify(nothing, top=top)  # raises before decoding if the model can't classify
    names: Sequence[str] | None = model.classes
    if labels is not None:
        file, known = Path(labels), model.classes
        names = read_lines(file, len(known)) if known else _read_labels(file, model.network.classes)

    def compute(images: Any, threads: int) -> list[tuple[Any, Any]]:
        return list(zip(*model.classify(images, top=top, threads=threads), strict=True))

    results = pictures.results(compute, model.thread_count(), model.network.size)
    quiet = sys.stdout.isatty()  # the lines themselves show the progress
    bar = contextlib.nullcontext(silent) if quiet else progress("classifying", pictures.total, unit="pictures")
    with contextlib.closing(results), bar as advance:
        for path, (row, values) in _with_progress(results, pictures, advance):
            if as_json:
                classes = [
                    {"index": i, **({"label": names[i]} if names else {}), "probability": float(str(p))}
                    for i, p in zip(row.tolist(), values, strict=True)
                ]
                click.echo(json.dumps({"path": path, "classes": classes}))
                continue
            for i, p in zip(row.tolist(), values, strict=True):
                click.echo(f"{shown(path)}\t{shown(names[i] if names else i)}\t{p:.4f}")
    report_left_out(pictures)
    check_some(pictures)
    check_missing(pictures)


def _read_labels(path: Path, classes: int) -> list[str]:
    """One label for each class. ValueError unless the file has a line for each class, or for all but background."""
    lines = read_lines(path)
    if len(lines) == classes - 1:
        lines = ["background", *lines]
    if len(lines) != classes:
        raise ValueError(
            f"{path}: expected {classes} labels, one per line, or {classes - 1} without background; got {len(lines)}"
        )
    return lines
