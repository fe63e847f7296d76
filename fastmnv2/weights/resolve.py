"""What a name for weights stands for: "imagenet", "untrained", a TF-Hub URL, or a path."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from fastmnv2.errors import WeightsError, WeightsUnavailable
from fastmnv2.weights import cache, read, refusing
from fastmnv2.weights.files import exists
from fastmnv2.weights.fold import Folded, fold

IMAGENET, UNTRAINED = "imagenet", "untrained"


def resolve(weights: str | os.PathLike[str] | None) -> Folded:
    """Folded weights for a name or path; None means "imagenet".

    Raises what ``fastmnv2.load`` documents.
    """
    if weights is None:
        return _imagenet()
    name = os.fspath(weights)
    if not isinstance(name, str):
        raise TypeError(f"weights: expected a str or path, got {name!r}")
    if not isinstance(weights, str) or exists(Path(name)):
        return fold(read(name))
    if name == IMAGENET:
        return _imagenet()
    if name == UNTRAINED:
        from fastmnv2.weights.untrained import untrained

        return fold(untrained())
    if name.startswith(("https://", "http://")):
        return _from_url(name)
    if not _is_prefix(name):
        raise FileNotFoundError(
            f"there are no weights at {name!r}: expected a path, a TF-Hub URL, {IMAGENET!r} or {UNTRAINED!r}"
        )
    return fold(read(name))


def _is_prefix(name: str) -> bool:
    return exists(Path(name + ".index"))


def _imagenet() -> Folded:
    configured = os.environ.get("FASTMNV2_WEIGHTS")
    if configured:
        if configured == IMAGENET or _is_handle(configured):  # which would lead back here
            raise WeightsError(f"FASTMNV2_WEIGHTS: expected a path or 'untrained', got {configured!r}")
        return resolve(configured)
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
            raise WeightsError(f"{error}; this is a broken cache: delete {cached}") from error
    return _download(cached)


def _cached_module(folder: Path, handle: str) -> Folded:
    from fastmnv2.weights.forms import hub

    with refusing(folder):
        return fold(hub.read(folder, origin=handle))


def _is_handle(url: str) -> bool:
    if "://" not in url:  # a path, which may be of the native form: it loads fast without the other readers
        return False
    from fastmnv2.weights.forms import hub

    return url.split("?", maxsplit=1)[0].rstrip("/") == hub.HANDLE


def _from_url(url: str) -> Folded:
    from fastmnv2.weights.forms import hub

    if module := hub.find_cached(url):
        return _cached_module(module, url)
    if _is_handle(url):
        return _imagenet()
    raise WeightsUnavailable(
        f"{url}: not in TFHUB_CACHE_DIR ({os.environ.get('TFHUB_CACHE_DIR') or 'not set'}), and only {hub.HANDLE} "
        "is downloaded; download it yourself and load the folder or archive"
    )


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Within it, "imagenet" is not downloaded."""
    before = os.environ.get("FASTMNV2_OFFLINE")
    os.environ["FASTMNV2_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["FASTMNV2_OFFLINE"]
        else:
            os.environ["FASTMNV2_OFFLINE"] = before


def _download(cached: Path) -> Folded:
    from fastmnv2.weights import download
    from fastmnv2.weights.forms import native

    if os.environ.get("FASTMNV2_OFFLINE", "0") not in ("", "0"):
        raise unavailable(cached, ["the network is not used: FASTMNV2_OFFLINE is set"])
    folded, failures = download.fetch()
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
