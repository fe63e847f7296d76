"""The command line: ``fastmnv2 embed | classify | convert | info | demo``."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import fastmnv2

try:
    import click
except ImportError:
    sys.exit("the command line needs click: pip install 'fastmnv2[cli]'")

if TYPE_CHECKING:
    from fastmnv2 import Model

_BATCH = 32
_weights_option = click.option(
    "--weights", metavar="W", help='Path, TF-Hub URL, "imagenet" (the default) or "untrained".'
)
_threads_option = click.option("--threads", type=click.IntRange(min=1), help="Most threads to use.")
_exif_option = click.option("--exif/--no-exif", default=True, help="Turn pictures upright by their EXIF data.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fastmnv2.__version__, prog_name="fastmnv2")
def cli() -> None:
    """MobileNet V2 0.75/96 image feature vectors on the CPU."""


def main() -> None:
    """Entry point: errors of the package become one line on standard error and exit code 1."""
    try:
        cli(prog_name="fastmnv2", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (ValueError, OSError, ImportError, MemoryError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help=".npy, .npz, .csv or .parquet")
@_weights_option
@_threads_option
@_exif_option
@click.option("--batch-size", type=click.IntRange(min=1), default=_BATCH, show_default=True)
@click.option("--recursive/--no-recursive", default=True, help="Look into folders' folders.")
@click.option("--normalize", is_flag=True, help="Scale each vector to length 1.")
def embed(
    paths: tuple[str, ...],
    output: Path,
    weights: str | None,
    threads: int | None,
    exif: bool,
    batch_size: int,
    recursive: bool,
    normalize: bool,
) -> None:
    """Write the feature vectors of images: files, folders, globs.

    Pictures are resized to 96x96 as tf.image.resize does. An .npy file's row names go to NAME.paths.txt
    beside it. Unreadable files are named and skipped; the exit code is 1 if none worked.
    """
    from fastmnv2 import files

    found = _find(paths, recursive)
    with files.TableFile(output) as table:
        model = fastmnv2.load(weights, threads=threads)
        done = 0
        for names, images in _batches(found, batch_size, exif):
            features = model.embed(images)
            if normalize:
                features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
            table.add(names, features)
            done += len(names)
        if done == 0:
            raise click.ClickException(f"none of {len(found)} files could be read; {output} is not written")
    skipped = f", {len(found) - done} skipped" if done < len(found) else ""
    click.echo(f"{output}: {done} feature vectors{skipped} ({_origin(model)})")


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="One label a line.")
@click.option("--top", type=click.IntRange(1, 1001), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@_weights_option
@_threads_option
@_exif_option
def classify(
    paths: tuple[str, ...],
    labels: Path | None,
    top: int,
    as_json: bool,
    weights: str | None,
    threads: int | None,
    exif: bool,
) -> None:
    """Print the most probable ImageNet classes of images."""
    found = _find(paths, True)
    names = _read_labels(labels)
    model = fastmnv2.load(weights, threads=threads)
    done = 0
    for batch, images in _batches(found, _BATCH, exif):
        for path, indices, probabilities in zip(batch, *model.classify(images, top=top), strict=True):
            done += 1
            rows = [
                (int(i), names[i] if names else None, float(p)) for i, p in zip(indices, probabilities, strict=True)
            ]
            _print_classes(path, rows, as_json)
    if done == 0:
        raise click.ClickException(f"none of {len(found)} files could be read")


def _print_classes(path: str, rows: list[tuple[int, str | None, float]], as_json: bool) -> None:
    if as_json:
        import json

        classes = [{"index": i, "label": label, "probability": round(p, 6)} for i, label, p in rows]
        click.echo(json.dumps({"path": path, "classes": classes}))
        return
    click.echo(path)
    for index, label, probability in rows:
        click.echo(f"  {probability:6.4f}  {label if label is not None else f'class {index}'}")


@cli.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST.safetensors", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite DST.")
def convert(source: str, target: Path, force: bool) -> None:
    """Write weights of any form as a native .safetensors, which loads fastest."""
    from fastmnv2.weights import names, native

    if target.suffix != ".safetensors":
        raise click.UsageError(f"expected a target that ends in .safetensors, got {target}")
    if target.exists() and not force:
        raise click.ClickException(f"{target} is there already; --force overwrites it")
    folded = names.resolve(source)
    native.write(target, folded)
    click.echo(f"{target}: {len(folded.tensors)} tensors, {target.stat().st_size} bytes")
    click.echo(f"  from {folded.form} {folded.origin}")
    click.echo(f"  sha256 {folded.sha256}")
    click.echo(f"  classification layer: {'yes' if folded.has_logits else 'no'}")
    for note in folded.notes:
        click.echo(f"  note: {note}")


@cli.command()
@_weights_option
@click.option("--json", "as_json", is_flag=True)
def info(weights: str | None, as_json: bool) -> None:
    """Print what a bug report needs."""
    found = fastmnv2.info(weights)
    if as_json:
        import json

        click.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            click.echo(f"{name}:")
            for key, entry in value.items():
                click.echo(f"  {key}: {entry}")
        else:
            click.echo(f"{name}: {', '.join(value) if isinstance(value, list) else value}")


@cli.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@_weights_option
@_threads_option
def demo(paths: tuple[str, ...], weights: str | None, threads: int | None) -> None:
    """Embed a few images (sample ones, unless PATHs are given), compare and time them. Needs no network."""
    from fastmnv2.demo import run

    images: dict[str, NDArray[Any]] | None = None
    if paths:
        images = {}
        for batch, pixels in _batches(_find(paths, True), _BATCH, True):
            images.update(zip(batch, pixels, strict=True))
        if not images:
            raise click.ClickException("none of the files could be read")
    for line in run(images, weights, threads):
        click.echo(line)


# ---- shared by the commands ----------------------------------------------------------------------------


def _find(patterns: tuple[str, ...], recursive: bool) -> list[str]:
    from fastmnv2 import files

    found, empty = files.find_images(patterns, recursive=recursive)
    for pattern in empty:
        click.echo(f"no images: {pattern}", err=True)
    if not found:
        raise click.ClickException("no image files found")
    return found


def _batches(paths: list[str], size: int, exif: bool) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """(names, images) of the files that can be read; the next batch is decoded while this one is used."""
    from fastmnv2 import image

    def decode(path: str) -> NDArray[np.float32] | Exception:
        try:
            return image.load_image(path, exif=exif)
        except (ValueError, OSError) as error:
            return error

    with ThreadPoolExecutor(4, thread_name_prefix="decode") as pool, _progress(len(paths)) as advance:
        parts = [paths[i : i + size] for i in range(0, len(paths), size)]
        pending = [pool.submit(decode, path) for path in parts[0]]
        for number, part in enumerate(parts):
            results = [future.result() for future in pending]
            following = parts[number + 1] if number + 1 < len(parts) else []
            pending = [pool.submit(decode, path) for path in following]
            good = [
                (path, result) for path, result in zip(part, results, strict=True) if not isinstance(result, Exception)
            ]
            for path, result in zip(part, results, strict=True):
                if isinstance(result, Exception):
                    text = str(result)
                    click.echo(f"skipped {text if path in text else f'{path}: {text}'}", err=True)
            if good:
                yield [path for path, _ in good], np.stack([pixels for _, pixels in good])
            advance(len(part))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("images", total=total)
        yield lambda count: bar.advance(task, count)


def _read_labels(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    labels = path.read_text(encoding="utf-8").splitlines()
    if len(labels) == 1000:
        return ["background", *labels]
    if len(labels) != 1001:
        raise click.ClickException(f"{path}: expected 1001 labels (or 1000 without background), got {len(labels)}")
    return labels


def _origin(model: "Model") -> str:
    weights = model.weights
    return f"weights: {weights['form']}, {weights['origin']}"
