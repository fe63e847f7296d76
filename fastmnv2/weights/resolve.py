"""What a name for weights stands for: "imagenet", "untrained", a TF-Hub URL, or a path."""

import os
import warnings
from pathlib import Path

from fastmnv2.errors import WeightsError, WeightsUnavailable
from fastmnv2.weights import PRECISIONS, cache, read, refusing
from fastmnv2.weights.files import exists
from fastmnv2.weights.fold import fold
from fastmnv2.weights.tensors import Folded

IMAGENET, UNTRAINED = "imagenet", "untrained"


def resolve(weights: str | os.PathLike[str] | None, *, download: bool = True, precision: str = "float32") -> Folded:
    """Folded weights for a name or path; None means "imagenet", downloaded where it must be and may.

    With precision "int8" it is a Quantised. Raises what ``fastmnv2.load`` documents.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected {' or '.join(map(repr, PRECISIONS))}, got {precision!r}")
    if precision == "int8":
        return _integers(weights)
    if weights is None:
        return _imagenet(download)
    name = os.fspath(weights)
    if not isinstance(name, str):
        raise TypeError(f"weights: expected a str or path, got {name!r}")
    if not isinstance(weights, str) or exists(Path(name)):
        return fold(read(name))
    if name == IMAGENET:
        return _imagenet(download)
    if name == UNTRAINED:
        from fastmnv2.weights.untrained import untrained

        return fold(untrained())
    if name.startswith(("https://", "http://")):
        return _from_url(name, download)
    if not _is_prefix(name):
        raise FileNotFoundError(
            f"there are no weights at {name!r}: expected a path, a TF-Hub URL, {IMAGENET!r} or {UNTRAINED!r}"
        )
    return fold(read(name))


def _integers(weights: str | os.PathLike[str] | None) -> Folded:
    from fastmnv2.weights.quantised import Quantised

    name = os.fspath(weights) if weights is not None else os.environ.get("FASTMNV2_WEIGHTS") or IMAGENET
    if not isinstance(name, str):
        raise TypeError(f"weights: expected a str or path, got {name!r}")
    if name in (IMAGENET, UNTRAINED) and not exists(Path(name)):
        raise WeightsError(
            f"{name}: these weights are float32, expected a file with 8-bit ones: a quantised TFLite file, or what "
            f"`fastmnv2 quantize {name} FILE.safetensors --calibrate PICTURES` makes"
        )
    found = read(name, "int8")
    if not isinstance(found, Quantised):
        raise TypeError(f"{name}: expected 8-bit weights, got {type(found).__name__}")
    return found


def _is_prefix(name: str) -> bool:
    return exists(Path(name + ".index"))


def _imagenet(download: bool) -> Folded:
    configured = os.environ.get("FASTMNV2_WEIGHTS")
    if configured:
        if configured == IMAGENET or _is_handle(configured):  # which would lead back here
            raise WeightsError(f"FASTMNV2_WEIGHTS: expected a path or 'untrained', got {configured!r}")
        return resolve(configured, download=download)
    if cache.embedded():
        return fold(read(cache.EMBEDDED))

    from fastmnv2.weights.forms import hub

    if module := hub.find_cached(hub.HANDLE):
        return _cached_module(module, hub.HANDLE)
    cached = cache.folder() / cache.FILE
    if cached.is_file():
        try:
            return fold(read(cached))
        except WeightsError as error:
            if isinstance(error.__cause__, OSError):  # it could not be read
                raise
            raise WeightsError(f"{error}; this is a broken cache: delete {cached}") from error
    return _download(cached, download)


def _cached_module(folder: Path, handle: str) -> Folded:
    from fastmnv2.weights.forms import hub

    with refusing(folder):
        return fold(hub.read(folder, origin=handle))


def _is_handle(url: str) -> bool:
    if "://" not in url:  # a path, which may be of the native form: it loads fast without the other readers
        return False
    from fastmnv2.weights.forms import hub

    return url.split("?", maxsplit=1)[0].rstrip("/") == hub.HANDLE


def _from_url(url: str, download: bool) -> Folded:
    from fastmnv2.weights.forms import hub

    if module := hub.find_cached(url):
        return _cached_module(module, url)
    if _is_handle(url):
        return _imagenet(download)
    raise WeightsUnavailable(
        f"{url}: not in TFHUB_CACHE_DIR ({os.environ.get('TFHUB_CACHE_DIR') or 'not set'}), and only {hub.HANDLE} "
        "is downloaded; download it yourself and load the folder or archive"
    )


def _download(cached: Path, allowed: bool) -> Folded:
    if not allowed:
        raise unavailable(cached, ["the network is not used: download=False"])
    if os.environ.get("FASTMNV2_OFFLINE", "0") not in ("", "0"):
        raise unavailable(cached, ["the network is not used: FASTMNV2_OFFLINE is set"])

    from fastmnv2.weights.download import fetch
    from fastmnv2.weights.forms import native

    folded, failures = fetch()
    if folded is None:
        raise unavailable(cached, failures)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        native.write(cached, folded)
    except OSError as error:
        warnings.warn(
            f"the downloaded weights can't be kept, and will be downloaded again: {error}; "
            "FASTMNV2_CACHE_DIR can name a writable folder",
            stacklevel=2,
        )
    return folded


def unavailable(cached: Path, tried: list[str]) -> WeightsUnavailable:
    """The one error for weights that are nowhere to be had, with the three ways out."""
    return WeightsUnavailable(
        "the imagenet weights are not here and could not be downloaded (" + "; ".join(tried) + "). Three ways out: "
        "(1) set FASTMNV2_WEIGHTS to a file or folder with weights: a TF-Hub module, a TF-Slim checkpoint, Keras "
        "weights, a TFLite file or a native .safetensors; "
        f"(2) on a machine with a network, run fastmnv2 convert SRC {cache.FILE} and copy the result to {cached}; "
        f"(3) load({UNTRAINED!r}) where timings are enough: its features mean nothing"
    )
