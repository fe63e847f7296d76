"""``fastmnv2 convert``, ``fastmnv2 quantize`` and ``fastmnv2 info``."""

import json
from pathlib import Path

import click
import numpy as np

from fastmnv2 import image
from fastmnv2.cli.common import PRECISION, THREADS, WEIGHTS, read_lines, shown, suffix, with_options


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite DST.")
@click.option("--head/--no-head", default=True, help="Keep what stands behind the pooling (default).")
@click.option("--classes", metavar="FILE", help="Names of the head's classes, one a line.")
@click.option("--input-range", type=(float, float), metavar="BLACK WHITE", help="What the network takes; see load.")
@click.option("--size", type=click.IntRange(min=1), metavar="N", help="Of images, where SRC does not say; see load.")
@PRECISION
def convert(
    source: str,
    target: Path,
    force: bool,
    precision: str,
    head: bool,
    classes: str | None,
    input_range: tuple[float, float] | None,
    size: int | None,
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

    names = read_lines(Path(classes)) if classes is not None else None
    found = adapted(source, input_range=input_range, head=head, classes=names, precision=precision, size=size)
    folded = export.write(target, found)
    click.echo(f"network  {folded.network.name}")
    click.echo(f"form     {folded.form}")
    click.echo(f"origin   {shown(folded.origin)}")
    click.echo(f"sha256   {folded.sha256}")
    click.echo(f"tensors  {len(folded.tensors)}, logits layer {'included' if folded.has_logits else 'not there'}")
    for note in folded.notes:
        click.echo(f"note     {note}")
    size = sum(path.stat().st_size for path in (target.rglob("*") if target.is_dir() else [target]) if path.is_file())
    click.echo(f"wrote    {shown(target)}, {size:,} bytes")


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST.safetensors", callback=suffix(".safetensors"))
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
@with_options(THREADS)
def quantize(
    source: str, target: Path, paths: tuple[str, ...], plot: Path | None, force: bool, threads: int | None
) -> None:
    """Make an int8 network of float weights SRC, calibrated on pictures.

    At least 5 pictures, a few dozen are enough; every fifth is held out, for the report on how near it is to float32.
    """
    if target.exists() and not force:
        raise click.ClickException(f"{target} is there already; --force overwrites it")
    from fastmnv2.image.find import find
    from fastmnv2.weights.int8 import calibration
    from fastmnv2.weights.resolve import resolve

    def skip(path: str, why: object) -> None:
        click.echo(f"skipped {click.format_filename(path)}: {why}", err=True)

    folded = resolve(source)
    pictures = []
    for path in find(paths, skip).paths:
        try:
            pictures.append(image.load_image(path, folded.network.size))
        except (ValueError, OSError) as error:
            skip(path, error)
    if not pictures:
        raise click.ClickException("no picture found to calibrate on")
    report = calibration.quantize(folded, target, np.stack(pictures), threads=threads)
    for line in report.lines():
        click.echo(line)
    if plot:
        report.plot(plot)
    click.echo(f"wrote    {target}, {target.stat().st_size:,} bytes")


@click.command()
@WEIGHTS
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
            click.echo(f"{(key + ' ' + name).strip():<20} {shown(text)}")
