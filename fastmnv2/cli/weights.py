"""``fastmnv2 convert``, ``fastmnv2 quantize`` and ``fastmnv2 info``."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from fastmnv2.cli.common import (
    DECODING,
    FOLLOW_LINKS,
    FORCE,
    PRECISION,
    THREADS,
    WEIGHTS,
    check_free,
    distinct,
    examples,
    read_lines,
    report_error,
    report_left_out,
    report_skipped,
    shown,
    suffix,
    with_options,
)
from fastmnv2.core.threads import available


def _edges(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | tuple[int, ...] | None:
    if value is None:
        return None
    try:
        edges = tuple(int(edge) for edge in value.lower().split("x"))
    except ValueError:
        edges = ()
    if len(edges) not in (1, 2):
        raise click.BadParameter(f"expected pixels such as 160, or height and width such as 64x96, got {value!r}")
    return edges[0] if len(edges) == 1 else edges


SIZE = click.option(
    "--size",
    callback=_edges,
    metavar="N|HxW",
    help="Height and width of the network's images in pixels.  [default: as recorded in SRC]",
)


@click.command(
    epilog=examples(
        "fastmnv2 convert imagenet imagenet.safetensors",
        "fastmnv2 convert mine.keras mine.onnx",
        "fastmnv2 convert mine.tflite saved_model --no-head --input-range 0 1",
    )
)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--force",
    is_flag=True,
    help="Overwrite DST if it exists. A folder is replaced only if convert wrote it.",
)
@click.option(
    "--head/--no-head",
    default=True,
    show_default=True,
    help="Keep the head (the layers after the pooling), or drop it.",
)
@click.option("--classes", metavar="FILE", help="Names of the head's classes, one per line.  [default: as in SRC]")
@click.option(
    "--input-range",
    type=(float, float),
    metavar="BLACK WHITE",
    help="The network's input values for black and white.  [default: as recorded in SRC, or else -1 and 1]",
)
@SIZE
@PRECISION
def convert(
    source: str,
    target: Path,
    force: bool,
    precision: Any,
    head: bool,
    classes: str | None,
    input_range: tuple[float, float] | None,
    size: Any,
) -> None:
    """Convert weights of any form to the form that DST's suffix names.

    \b
    .safetensors    the native form, which loads fastest
    .keras, .h5     a Keras model; needs fastmnv2[train]
    .tflite, .onnx  for other engines; need fastmnv2[tensorflow], fastmnv2[onnx]
    no suffix       a folder with a TF2 SavedModel; needs fastmnv2[tensorflow]

    SRC is a TF1 hub module (folder, archive or URL), a TF-Slim checkpoint, a Keras or TFLite file, or a name
    ("imagenet", "untrained").
    """  # noqa: D301 -- click's own mark
    check_free(target, force=force)
    distinct(**{"DST": target, "--classes": classes})
    from fastmnv2 import export
    from fastmnv2.weights.resolve import adapted

    names = read_lines(Path(classes)) if classes is not None else None
    if precision is None and (target.suffix.lower() != ".safetensors" or input_range is not None):
        precision = "float32"  # the only precision of these formats
    found = adapted(source, input_range=input_range, head=head, classes=names, precision=precision, size=size)
    folded = export.write(target, found)
    click.echo(f"network  {folded.network.name}")
    click.echo(f"form     {folded.form}")
    click.echo(f"origin   {shown(folded.origin)}")
    click.echo(f"sha256   {folded.sha256}")
    click.echo(f"tensors  {len(folded.tensors)}, {'with' if folded.has_logits else 'without'} the logits layer")
    for note in folded.notes:
        click.echo(f"note     {note}")
    written = sum(
        path.stat().st_size for path in (target.rglob("*") if target.is_dir() else [target]) if path.is_file()
    )
    click.echo(f"wrote    {shown(target)}, {written:,} bytes")


@click.command(
    epilog=examples(
        "fastmnv2 quantize imagenet int8.safetensors --calibrate photos/",
        "fastmnv2 embed photos/ -o features.npz --weights int8.safetensors",
    )
)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST.safetensors", callback=suffix(".safetensors"))
@click.option(
    "--calibrate",
    "paths",
    multiple=True,
    required=True,
    metavar="PATH",
    help="Pictures, folders or quoted globs to calibrate on. Can be repeated.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw the report to this file, such as report.png. Needs matplotlib.",
)
@SIZE
@with_options(*DECODING, FOLLOW_LINKS, FORCE, THREADS)
def quantize(
    source: str,
    target: Path,
    paths: tuple[str, ...],
    plot: Path | None,
    size: Any,
    follow_links: bool,
    force: bool,
    threads: int | None,
    **decoding: Any,
) -> None:
    """Convert the float weights SRC to an int8 network, calibrated on pictures.

    It takes at least 5 pictures; a few dozen are enough. Every fifth is held out for the report, which shows how close
    the features are to those in float32.
    """
    check_free(target, force=force)
    if plot:
        check_free(plot, force=force)
    distinct(**{"DST": target, "--plot": plot, "SRC": source})
    from fastmnv2.image import embed
    from fastmnv2.image.decode import Options
    from fastmnv2.image.find import find
    from fastmnv2.weights.int8 import calibration
    from fastmnv2.weights.resolve import resolve

    folded = resolve(source, precision="float32", size=size)
    options = Options(**decoding, size=folded.network.size)
    found = find(paths, report_skipped, follow_links=follow_links)
    results = embed.run(
        lambda images, _threads: images.copy(), found.paths, options, batch_size=64,
        threads=available(), on_error=report_error,
    )  # fmt: skip
    pictures = [result.value for result in results]
    report_left_out(found)
    if not pictures:
        raise click.ClickException("no picture found to calibrate on")
    report = calibration.quantize(folded, target, np.stack(pictures), threads=threads, progress=True)
    for line in report.lines():
        click.echo(line)
    if plot:
        report.plot(plot)
    click.echo(f"wrote    {shown(target)}, {target.stat().st_size:,} bytes")


@click.command(epilog=examples("fastmnv2 info", "fastmnv2 info --weights mine.keras --json"))
@WEIGHTS
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def info(weights: str | None, as_json: bool) -> None:
    """Print versions, instruction sets and weights, for bug reports."""
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
