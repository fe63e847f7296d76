"""Find and read the weights that a name stands for: "imagenet", "untrained", a TF-Hub URL, or a path."""

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastmnv2.core.arguments import PRECISIONS, Precision
from fastmnv2.core.errors import WeightsError, WeightsUnavailable, printable
from fastmnv2.core.head import named
from fastmnv2.core.network import DEFAULT, Network, checked_size
from fastmnv2.weights import Source, cache, first_layer, read, refusing
from fastmnv2.weights.files import exists
from fastmnv2.weights.fold import fold
from fastmnv2.weights.tensors import RANGE_LIMIT, Folded, is_range

if TYPE_CHECKING:
    from fastmnv2.weights.names import Published

IMAGENET, UNTRAINED = "imagenet", "untrained"


def resolve(weights: Any, **how: Any) -> Folded:
    """Folded weights for a name, path or Keras model; None means "imagenet", downloaded if necessary and allowed.

    ``how``: the arguments of ``adapted``, as ``fastmnv2.load`` documents them. Precision "int8" gives a Quantised.

    Raises what ``fastmnv2.load`` documents.
    """
    found = adapted(weights, **how)
    if isinstance(found, Folded):
        if found.input_error or found.head_error:
            raise WeightsError(f"{found.origin}: {found.input_error or found.head_error}")
        return found
    try:
        return fold(found)
    except WeightsError as error:
        if Path(found.origin).parent == cache.folder():
            raise _broken_cache(error, Path(found.origin)) from error
        raise


def adapted(
    weights: Any,
    *,
    download: bool = True,
    precision: Precision | None = None,
    input_range: tuple[float, float] | None = None,
    head: bool = True,
    classes: Sequence[str] | None = None,
    size: Any = None,
) -> Source:
    """The weights before folding, with batch norms if the form has them, and with ``fastmnv2.load``'s settings."""
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"precision: expected {' or '.join(map(repr, PRECISIONS))} or None, got {precision!r}")
    precision = precision or own_precision(weights)
    if precision == "int8" and input_range is not None:
        raise ValueError(
            "input_range: expected None for an 8-bit file, whose scale and zero point define the range; "
            "precision='float32' dequantises the file and allows it"
        )
    found = _integers(weights) if precision == "int8" else resolve_source(weights, download=download)
    if size is not None:
        size, notes = checked_size(size), found.notes
        if found.size not in (None, size):
            notes += (f"the image size in the file, {' x '.join(map(str, found.size or ()))}, is replaced",)
        found = dataclasses.replace(found, size=size, notes=notes, file="")
    if input_range is not None:
        black, white = _checked_range(input_range)
        notes = found.notes
        if found.input_range not in (None, (black, white)):
            notes += (f"the input range in the file, {list(found.input_range or ())}, is replaced",)
        found = dataclasses.replace(found, input_range=(black, white), input_error="", notes=notes, file="")
    elif doubt := first_layer.doubt(found):
        warnings.warn(f"{printable(found.origin)}: {doubt}", stacklevel=2)
        found = dataclasses.replace(found, notes=(*found.notes, doubt), file="")
    if not head:
        found = dataclasses.replace(found, head=None, head_error="", file="")
    elif classes is not None and not found.head_error:
        found = dataclasses.replace(found, head=named(found.head, classes), file="")
    return found


def _checked_range(input_range: Any) -> tuple[float, float]:
    try:
        black, white = (float(edge) for edge in input_range)
    except (TypeError, ValueError):
        black = white = 0.0
    if not is_range(black, white):
        raise ValueError(
            "input_range: expected the two numbers that black and white become, such as (-1, 1), different in float32 "
            f"and no larger than {RANGE_LIMIT:g}; got {input_range!r}"
        )
    return black, white


def own_precision(weights: Any) -> Precision:
    """The default precision for ``weights``: the one that a native file records; float32 for everything else."""
    name = os.environ.get("FASTMNV2_WEIGHTS") if weights is None or weights == IMAGENET else weights
    if not isinstance(name, (str, os.PathLike)) or name in (None, UNTRAINED) or not os.path.isfile(name):
        return "float32"
    from fastmnv2.weights.forms import native

    return native.precision_of(Path(name))


def resolve_source(weights: Any, *, download: bool = True) -> Source:
    """The weights that a name, path or Keras model stands for, before folding and without ``load``'s settings.

    Raises what ``fastmnv2.load`` documents, except for the errors that folding finds.
    """
    if weights is None:
        return _imagenet(download)
    if hasattr(weights, "to_json") and hasattr(weights, "layers"):
        from fastmnv2.weights.forms import keras

        with refusing(f"the Keras model {weights.name}"):
            return keras.read_model(weights)
    name = os.fspath(weights)
    if not isinstance(name, str):
        raise TypeError(f"weights: expected a str or path, got {name!r}")
    if isinstance(weights, str) and name == IMAGENET:  # even if such a file exists: "./imagenet" is a path
        return _imagenet(download)
    if isinstance(weights, str) and name == UNTRAINED:
        from fastmnv2.weights.untrained import untrained

        return untrained()
    if not isinstance(weights, str) or exists(Path(name)) or _has_index(name):
        return read(name)
    if name.startswith("hf://"):
        from fastmnv2.weights.forms import huggingface

        with refusing(name):
            return huggingface.read(huggingface.fetched(name, download=download), origin=name)
    if name.startswith(("https://", "http://")):
        return _from_url(name, download)
    from fastmnv2.weights import names

    if found := names.published(name):
        return _published(found, download)
    raise FileNotFoundError(
        f"there are no weights at {name!r}: expected a path, a name such as {IMAGENET!r}, 'mobilenet_v2_100_224' or "
        f"{UNTRAINED!r}, a TF-Hub URL, or hf://organisation/name"
    )


def _integers(weights: str | os.PathLike[str] | None) -> Folded:
    from fastmnv2.weights.int8.quantised import Quantised

    configured = os.environ.get("FASTMNV2_WEIGHTS") or IMAGENET
    name = configured if weights is None or weights == IMAGENET else os.fspath(weights)
    if not isinstance(name, str):
        raise TypeError(f"weights: expected a str or path, got {name!r}")
    if name == UNTRAINED and not isinstance(weights, os.PathLike):
        from fastmnv2.weights.int8 import calibration
        from fastmnv2.weights.untrained import untrained

        return calibration.untrained(fold(untrained()))
    if not isinstance(weights, os.PathLike) and _is_published(name):
        raise WeightsError(
            f"{name}: expected a file with 8-bit weights, got float32; use a quantised TFLite file, or make one with "
            f"`fastmnv2 quantize {name} FILE.safetensors --calibrate PICTURES`"
        )
    found = read(name, "int8")
    if not isinstance(found, Quantised):
        raise TypeError(f"{name}: expected 8-bit weights, got {type(found).__name__}")
    return found


def _is_published(name: str) -> bool:
    """Whether it is a name of published weights, all of which are float32."""
    from fastmnv2.weights import names

    if name != IMAGENET and exists(Path(name)):
        return False
    return name == IMAGENET or name.startswith("hf://") or names.published(name) is not None


def _has_index(name: str) -> bool:
    return exists(Path(name + ".index"))


def _imagenet(download: bool) -> Source:
    configured = os.environ.get("FASTMNV2_WEIGHTS")
    if configured:
        from fastmnv2.weights import names

        found = names.published(configured)
        if configured == IMAGENET or (found and found.is_default):  # would recurse
            raise WeightsError(f"FASTMNV2_WEIGHTS: expected a path or 'untrained', got {configured!r}")
        return resolve_source(configured, download=download)
    if cache.embedded():
        return read(cache.EMBEDDED)

    from fastmnv2.weights.forms import hub

    if module := hub.find_cached(hub.HANDLE):
        return _cached_module(module, hub.HANDLE)
    cached = cache.folder() / cache.FILE
    return _read_cached(cached) if cached.is_file() else _download(cached, download)


def _read_cached(cached: Path) -> Source:
    try:
        return read(cached)
    except WeightsError as error:
        if isinstance(error.__cause__, OSError):  # it could not be read, so it may be intact
            raise
        raise _broken_cache(error, cached) from error


def _broken_cache(error: WeightsError, cached: Path) -> WeightsError:
    return WeightsError(f"{error}; this file in the cache is broken: delete {cached}")


def _cached_module(folder: Path, handle: str) -> Source:
    from fastmnv2.weights.forms import hub

    with refusing(folder):
        return hub.read(folder, origin=handle)


def _from_url(url: str, download: bool) -> Source:
    from fastmnv2.weights import names
    from fastmnv2.weights.forms import hub

    if module := hub.find_cached(url):
        return _cached_module(module, url)
    if found := names.published(url):
        return _published(found, download)
    raise WeightsUnavailable(
        f"{url}: not in TFHUB_CACHE_DIR ({os.environ.get('TFHUB_CACHE_DIR') or 'not set'}), and fastmnv2 downloads "
        "only Google's 22 MobileNet V2 modules (feature_vector and classification) and Keras' files; download it "
        "yourself and load the folder or archive"
    )


def _published(found: "Published", download: bool) -> Source:
    """Weights of one of the 22 members: from Keras', TF-Hub's or the user's cache, or else downloaded."""
    if path := found.keras_cached():
        return read(path)
    if found.is_default:
        return _expecting(found, _imagenet(download))
    from fastmnv2.weights.forms import hub

    for handle in found.handles:
        if module := hub.find_cached(handle):
            return _cached_module(module, handle)
    cached = cache.folder() / f"{found.name}.safetensors"
    return _expecting(found, _read_cached(cached)) if cached.is_file() else _download(cached, download, found)


def _expecting(wanted: "Published", source: Source) -> Source:
    """Check that ``source`` is the wanted network; "imagenet" or a file in the cache may have been replaced."""
    if source.network != wanted.network:
        raise WeightsError(f"{source.origin}: expected {wanted.network.name}, got {source.network.name}")
    return source


def network_of(name: str | None) -> Network | None:
    """The network of published weights, by their name; None for any other name. Nothing is loaded."""
    from fastmnv2.weights import names

    if name is None or name == IMAGENET:
        replaced = os.environ.get("FASTMNV2_WEIGHTS") or cache.embedded() or exists(cache.folder() / cache.FILE)
        return None if replaced else DEFAULT
    found = None if exists(Path(name)) else names.published(name)
    return found.network if found else None


def _download(cached: Path, allowed: bool, wanted: "Published | None" = None) -> Source:
    what = wanted.name if wanted else IMAGENET
    if not allowed:
        raise unavailable(cached, ["downloads are disabled by download=False"], what)
    if os.environ.get("FASTMNV2_OFFLINE", "0") not in ("", "0"):
        raise unavailable(cached, ["downloads are disabled by FASTMNV2_OFFLINE"], what)

    from fastmnv2.weights.download import fetch, remotes_of
    from fastmnv2.weights.forms import native

    folded, failures = fetch(remotes_of(wanted), wanted.network) if wanted else fetch()
    if folded is None:
        raise unavailable(cached, failures, what)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        native.write(cached, folded)
    except OSError as error:
        warnings.warn(
            f"the downloaded weights can't be cached, so they will be downloaded again: {error}; "
            "set FASTMNV2_CACHE_DIR to a writable folder",
            stacklevel=2,
        )
    return folded


def unavailable(cached: Path, tried: list[str], what: str = IMAGENET) -> WeightsUnavailable:
    """The error for weights that can't be found or downloaded, with three ways to provide them."""
    how = "set FASTMNV2_WEIGHTS to" if what == IMAGENET else "load by its path"
    return WeightsUnavailable(
        f"the {what} weights are not on this machine and could not be downloaded ({'; '.join(tried)}). Three remedies: "
        f"(1) {how} a file or folder with weights: a TF-Hub module, a TF-Slim checkpoint, Keras "
        "weights, a TFLite file or a native .safetensors; "
        f"(2) on a machine with a network, run fastmnv2 convert SRC {cached.name} and copy the result to {cached}; "
        f"(3) for timings only, load({UNTRAINED!r}), whose features are meaningless"
    )
