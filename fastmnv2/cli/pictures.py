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
    THREADS,
    WEIGHTS,
    check_missing,
    check_some,
    count,
    find_pictures,
    others,
    read_lines,
    shown,
    with_options,
)

if TYPE_CHECKING:
    from fastmnv2.core.model import Model
    from fastmnv2.core.progress import Advance
    from fastmnv2.image.given import Pictures
    from fastmnv2.image.outputs import Writer

_ROWS = 64  # that are handed to a writer together

_Item = TypeVar("_Item")

_FILES = (".npy", ".npz", ".csv", ".parquet")


def _output(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[Path, bool]:
    """The path, and whether it is a folder, which a pathlib.Path forgets."""
    known = Path(value).suffix.lower() in _FILES
    folder = value.endswith(("/", os.sep)) or (Path(value).is_dir() and not known)
    if not folder and not known:
        raise click.BadParameter(f"expected a name ending in {', '.join(_FILES)}, or a FOLDER/, got {value!r}")
    return Path(value), folder


@click.command()
@with_options(*PICTURES, WEIGHTS, THREADS)
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
    .npy      float32 [n,features], and after it, in the same file, the paths: both
              by numpy.load(file) twice of the open file, the first by its name
    .npz      arrays features and paths
    .csv      columns path, f0, f1 and on
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
        from fastmnv2.image import jobs

        how = jobs.Settings(normalize=normalize, float16=float16, prune=prune, engine=engine, threads=threads)
        pictures = find_pictures(paths, **find)
        model = fastmnv2.load(weights, threads=threads)
        counts = jobs.embed_to_folder(model, pictures, target, how)
    else:
        from fastmnv2.image import outputs

        model = fastmnv2.load(weights, threads=threads)
        with outputs.open_output(target, model.network.features) as writer:
            pictures = find_pictures(paths, **find)
            _embed_to_file(model, pictures, writer, normalize)
            check_some(pictures)
        counts = {"pictures": pictures.read}
    if as_json:
        more = {"skipped": pictures.skipped, "other_files": pictures.others.total(), "weights": model.weights}
        click.echo(json.dumps({"output": str(target), **counts, **more}))
    else:
        told = [f"{number:,} {what}" for what, number in counts.items() if what != "pictures"]
        told += [f"{pictures.skipped:,} skipped"]
        weights_used = f"{model.weights['form']}, {model.weights['origin']}"
        vectors = f"features of {count(counts['pictures'], 'picture')}, {', '.join(told)}{others(pictures)}"
        click.echo(shown(f"{target}: {vectors}; weights: {weights_used}"), err=True)
    check_missing(pictures)


def _embed_to_file(model: "Model", pictures: "Pictures", writer: "Writer", normalize: bool) -> None:
    from fastmnv2.core.progress import progress

    def compute(images: Any, threads: int) -> Any:
        return model.embed(images, threads=threads, normalize=normalize)

    results = pictures.results(compute, model.thread_count(), model.network.size)
    with contextlib.closing(results), progress("embedding", pictures.total, unit="pictures") as advance:
        told = _telling(results, pictures, advance)
        while batch := list(itertools.islice(told, _ROWS)):
            writer.append([name for name, _ in batch], np.stack([vector for _, vector in batch]))


def _telling(results: Iterable[_Item], pictures: "Pictures", advance: "Advance") -> Iterator[_Item]:
    """The same, telling a progress bar of each."""
    for result in results:
        advance(pictures.read + pictures.skipped)
        yield result


@click.command()
@with_options(*PICTURES, WEIGHTS, THREADS)
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
    from fastmnv2.core.progress import progress, silent

    pictures = find_pictures(paths, **find)
    model = fastmnv2.load(weights, threads=threads)
    model.classify(
        np.empty((0, *model.network.image_shape), np.float32), top=top
    )  # if it can't, say so before decoding
    names: Sequence[str] | None = model.classes
    if labels is not None:
        names = (
            read_lines(Path(labels), len(model.classes))
            if model.classes
            else _read_labels(Path(labels), model.network.classes)
        )

    def compute(images: Any, threads: int) -> list[tuple[Any, Any]]:
        return list(zip(*model.classify(images, top=top, threads=threads), strict=True))

    results = pictures.results(compute, model.thread_count(), model.network.size)
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
                click.echo(f"{shown(path)}\t{shown(names[i] if names else i)}\t{p:.4f}")
    if pictures.others:
        click.echo(shown(others(pictures).removeprefix("; ")), err=True)
    check_some(pictures)
    check_missing(pictures)


def _read_labels(path: Path, classes: int) -> list[str]:
    """One label for each class index. ValueError if the file has neither as many lines of text, nor one less."""
    lines = read_lines(path)
    if len(lines) == classes - 1:
        lines = ["background", *lines]
    if len(lines) != classes:
        raise ValueError(
            f"{path}: expected {classes} labels, one a line, or {classes - 1} without background; got {len(lines)}"
        )
    return lines
