"""``fastmnv2 train``."""

from pathlib import Path
from typing import Any

import click

from fastmnv2.core.errors import printable

_PAIRS = 5


@click.command()
@click.argument("data", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, metavar="FILE.safetensors", type=click.Path(path_type=Path))
@click.option("--weights", metavar="W", help='Where features come from: "imagenet" (default), a file or folder.')
@click.option("--precision", type=click.Choice(["float32", "int8"]), default="float32", show_default=True)
@click.option("--report", metavar="FILE.html", type=click.Path(path_type=Path), help="Write a report to look at.")
@click.option("--augment/--no-augment", help="Train on mirror images and crops too, if that helps.")
@click.option("--balanced/--no-balanced", default=True, help="Weigh classes alike (default), or pictures.")
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, metavar="N")
@click.option("--method", type=click.Choice(["tf2", "tf1", "area"]), default="tf2", show_default=True)
@click.option("--cache/--no-cache", "use_cache", default=True, help="Keep features for the next time (default).")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: every usable CPU.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def train(
    data: Path,
    output: Path,
    weights: str | None,
    precision: str,
    report: Path | None,
    augment: bool,
    balanced: bool,
    folds: int,
    method: Any,
    use_cache: bool,
    threads: int | None,
    force: bool,
) -> None:
    """Train a classifier on FOLDER's pictures, a folder for each class, and write it to FILE.

    Instead of a folder, a .csv, .tsv or .parquet table with the columns path and label; several labels are separated
    by ";". Needs fastmnv2[learn]. Then: fastmnv2 classify --weights FILE new/
    """
    if output.suffix.lower() != ".safetensors":
        raise click.BadParameter(f"expected a name ending in .safetensors, got {str(output)!r}")
    for path in (output, *([report] if report else [])):
        if path.exists() and not force:
            raise click.ClickException(f"{path} is there already; --force overwrites it")
        if not path.parent.is_dir():
            raise click.ClickException(f"{path}: there is no folder {str(path.parent)!r} to write it to")
    from fastmnv2 import learn

    def skip(path: str, why: object) -> None:
        click.echo(f"skipped {printable(str(path))}: {printable(str(why))}", err=True)

    options: dict[str, Any] = {} if use_cache else {"cache": None}
    outcome = learn.study(
        data,
        weights=weights,
        precision=precision,
        augment="auto" if augment else False,
        class_weight="balanced" if balanced else None,
        folds=folds,
        method=method,
        threads=threads,
        on_skip=skip,
        progress=True,
        **options,
    )
    outcome.save(output)
    if report is not None:
        learn.write_report(report, outcome)
    _say(outcome)
    click.echo(f"wrote {output}{f' and {report}' if report else ''}", err=True)


def _say(outcome: Any) -> None:
    low, high = outcome.measures.interval
    click.echo(f"accuracy {outcome.measures.accuracy:.1%} ({low:.1%} to {high:.1%}), pictures not trained on")
    for note in outcome.notes:
        click.echo(f"note: {printable(note)}")
    names = [printable(name, 40) for name in outcome.data.classes]
    width = max(5, *map(len, names))
    click.echo(f"{'class':<{width}} {'pictures':>8} {'precision':>9} {'recall':>7}")
    for name, found in zip(names, outcome.measures.classes(), strict=True):
        click.echo(f"{name:<{width}} {found.pictures:>8} {found.precision:>9.1%} {found.recall:>7.1%}")
    if outcome.data.exclusive and (pairs := outcome.measures.confused(_PAIRS)):
        click.echo("most confused")
        for i, j, count in pairs:
            click.echo(f"  {names[i]} taken for {names[j]}: {count}")
