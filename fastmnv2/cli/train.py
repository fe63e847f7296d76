"""``fastmnv2 train``."""

from pathlib import Path
from typing import Any

import click

from fastmnv2.cli.common import (
    DECODING,
    FOLLOW_LINKS,
    PRECISION,
    THREADS,
    check_free,
    distinct,
    examples,
    report_error,
    shown,
    with_options,
)
from fastmnv2.core.errors import printable

_PAIRS = 5


@click.command(
    epilog=examples(
        "fastmnv2 train flowers/ -o flowers.safetensors --report report.html",
        "fastmnv2 train labels.csv -o tags.safetensors --augment",
        "fastmnv2 classify --weights flowers.safetensors new/",
    )
)
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE.safetensors",
    type=click.Path(path_type=Path),
    help="Write the network with its new head to this file.",
)
@click.option(
    "--weights",
    metavar="W",
    help='The weights that compute the features: "imagenet" (default), "untrained", or a file or folder.',
)
@PRECISION
@click.option("--report", metavar="FILE.html", type=click.Path(path_type=Path), help="Write a report as a web page.")
@click.option(
    "--augment/--no-augment",
    default=False,
    show_default=True,
    help="Also train on mirror images and crops, if that lowers the loss.",
)
@click.option(
    "--balanced/--no-balanced",
    default=True,
    show_default=True,
    help="Give all classes the same weight, or all pictures.",
)
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    metavar="N",
    help="Number of parts in the cross-validation that measures the accuracy.",
)
@with_options(*DECODING, FOLLOW_LINKS)
@click.option(
    "--cache/--no-cache",
    "use_cache",
    default=True,
    show_default=True,
    help="Cache features on disk for the next training.",
)
@with_options(THREADS)
@click.option("--force", is_flag=True, help="Overwrite the output and the report if they exist.")
def train(
    data: Path,
    output: Path,
    weights: str | None,
    precision: Any,
    report: Path | None,
    augment: bool,
    balanced: bool,
    folds: int,
    use_cache: bool,
    threads: int | None,
    follow_links: bool,
    force: bool,
    **decoding: Any,
) -> None:
    """Train a classifier on the pictures in DATA and write it to FILE. Needs fastmnv2[learn].

    DATA is a folder with a folder of pictures for each class, or a .csv, .tsv or .parquet table with the columns path
    and label. Several labels of one picture are separated by ";". Pictures whose label is missing are skipped.

    Use the same options for decoding and resizing when you classify.
    """
    if output.suffix.lower() != ".safetensors":
        raise click.BadParameter(f"expected a name ending in .safetensors, got {str(output)!r}")
    table = None if data.is_dir() else data
    distinct(**{"--output": output, "--report": report, "DATA": table, "--weights": weights})
    for path in (output, *([report] if report else [])):
        check_free(path, force=force)
    from fastmnv2 import learn
    from fastmnv2.image.decode import Options

    cache: dict[str, Any] = {} if use_cache else {"cache": None}
    outcome = learn.study(
        data,
        weights=weights,
        precision=precision,
        augment="auto" if augment else False,
        class_weight="balanced" if balanced else None,
        folds=folds,
        options=Options(**decoding),
        follow_links=follow_links,
        threads=threads,
        on_error=report_error,
        progress=True,
        **cache,
    )
    learn.save(output, outcome)
    if report is not None:
        learn.write_report(report, outcome)
    _print_measures(outcome)
    click.echo(shown(f"wrote {output}{f' and {report}' if report else ''}"), err=True)


def _print_measures(outcome: Any) -> None:
    low, high = outcome.measures.interval
    click.echo(f"accuracy {outcome.measures.accuracy:.1%} ({low:.1%} to {high:.1%}) on held-out pictures")
    for note in outcome.notes:
        click.echo(f"note: {printable(note)}")
    names = [printable(name, 40) for name in outcome.data.classes]
    width = max(5, *map(len, names))
    click.echo(f"{'class':<{width}} {'pictures':>8} {'precision':>9} {'recall':>7}")
    for name, found in zip(names, outcome.measures.classes(), strict=True):
        click.echo(f"{name:<{width}} {found.pictures:>8} {found.precision:>9.1%} {found.recall:>7.1%}")
    if outcome.data.exclusive and (pairs := outcome.measures.confused(_PAIRS)):
        click.echo("most confused")
        for i, j, number in pairs:
            click.echo(f"  {names[i]} predicted as {names[j]}: {number}")
