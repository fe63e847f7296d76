"""Feature vectors of pictures: the implementation of ``fastmnv2.embed_images`` and ``Model.embed_images``."""

import contextlib
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core import network as networks
from fastmnv2.core.errors import ImageError
from fastmnv2.core.progress import progress as progress_bar
from fastmnv2.image.options import MAX_PIXELS, Colour, Decode, Options
from fastmnv2.image.resizing import Crop, Method
from fastmnv2.image.stream import Compute, Result, stream

OnError = Literal["raise", "skip"] | Callable[[ImageError], object]

Results = Generator[Result, None, None]


class Network(Protocol):
    """The methods of ``Model`` that this module uses."""

    @property
    def network(self) -> networks.Network:
        """See ``Model.network``."""

    def embed(self, images: Any, *, threads: int | None = ..., normalize: bool = ...) -> NDArray[np.float32]:
        """See ``Model.embed``."""

    def thread_count(self, threads: int | None = ...) -> int:
        """See ``Model.thread_count``."""


_NAMED_ERRORS = 5  # skipped items that a warning names


def options(
    method: Method,
    decode: Decode,
    exif: bool,
    max_pixels: int | None,
    size: tuple[int, int],
    crop: Crop | None = None,
    background: Colour | None = None,
) -> Options:
    """Checked options for decoding and resizing; ``max_pixels`` defaults to ``MAX_PIXELS``."""
    return Options(method, decode, exif, MAX_PIXELS if max_pixels is None else max_pixels, size, crop, background)


def embed_images(
    model: Network,
    items: Iterable[Any],
    options: Options,
    *,
    batch_size: int,
    threads: int | None,
    on_error: OnError,
    normalize: bool,
    progress: bool,
    out: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """See ``fastmnv2.embed_images``."""
    _check_items(items)
    count = len(items) if isinstance(items, Sized) else None
    features = model.network.features
    if out is not None:
        _check_out(out, count, features)
    skipped: list[ImageError] = []
    results = vectors(
        model, items, options, batch_size=batch_size, threads=threads, normalize=normalize,
        on_error=(lambda error: _note(skipped, error)) if on_error == "skip" else on_error,
    )  # fmt: skip
    result_rows = out if out is not None else None if count is None else np.empty((count, features), np.float32)
    rows: list[NDArray[np.float32]] = []
    done = 0
    bar = progress_bar("", count, unit="pictures") if progress else contextlib.nullcontext(lambda done: None)
    with contextlib.closing(results), bar as advance:
        for result in results:
            if result_rows is None:
                rows.append(result.value)
            elif done == len(result_rows):
                raise ValueError(f"out: expected a row for every item, got {len(result_rows)} rows and more items")
            else:
                result_rows[done] = result.value
            done += 1
            advance(result.index + 1)
    if skipped:
        named = "; ".join(map(str, skipped[:_NAMED_ERRORS]))
        more = f"; and {skipped[-1].index} more" if len(skipped) > _NAMED_ERRORS else ""
        warnings.warn(f"skipped items that can't be read: {named}{more}", stacklevel=3)
    if result_rows is None:
        return np.stack(rows) if rows else np.empty((0, features), np.float32)
    return result_rows[:done]


def iter_embed_images(
    model: Network, items: Iterable[Any], options: Options, *, on_error: OnError, **how: Any
) -> Iterator[tuple[Any, NDArray[np.float32]]]:
    """See ``fastmnv2.iter_embed_images``."""
    handler = (lambda error: None) if on_error == "skip" else on_error
    results = vectors(model, items, options, on_error=handler, **how)
    return _pairs(results)


def _pairs(results: Results) -> Iterator[tuple[Any, NDArray[np.float32]]]:
    with contextlib.closing(results):
        for result in results:
            yield result.item, result.value


def vectors(
    model: Network,
    items: Iterable[Any],
    options: Options,
    *,
    batch_size: int,
    threads: int | None,
    on_error: OnError,
    normalize: bool,
) -> Results:
    """The vectors of items, in order. ``on_error`` is "raise", or a function that is called with each error."""

    def compute(images: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        return model.embed(images, threads=count, normalize=normalize)

    count = model.thread_count(threads)
    return run(compute, items, options, batch_size=batch_size, threads=count, on_error=on_error)


def run(
    compute: Compute,
    items: Iterable[Any],
    options: Options,
    *,
    batch_size: int,
    threads: int,
    on_error: OnError,
) -> Results:
    """The same as ``vectors``, for any function. Arguments are checked before the first item is taken."""
    _check_items(items)
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"batch_size: expected a positive int, got {batch_size!r}")
    if on_error != "raise" and not callable(on_error):
        raise ValueError(f"on_error: expected 'raise', 'skip' or a function, got {on_error!r}")
    results = stream(items, compute, options, threads=threads, batch_size=int(batch_size))
    return _without_errors(results, on_error)


def _check_items(items: Any) -> None:
    one = isinstance(items, (str, bytes, bytearray, os.PathLike)) or hasattr(items, "getexif")
    if one or (hasattr(items, "read") and hasattr(items, "readline")):
        raise TypeError(f"items: expected several pictures, got one ({type(items).__name__}); put it into a list")
    names = isinstance(items, np.ndarray) and items.ndim == 1 and items.dtype.kind in "UTO"
    if isinstance(items, np.ndarray) and items.ndim != 4 and not names:
        expected = "expected a list of arrays, or an array of pictures [n, H, W, C] or of paths [n]"
        raise ValueError(f"items: {expected}; got {items.dtype} {list(items.shape)}")
    if not isinstance(items, Iterable):
        raise TypeError(f"items: expected an iterable of pictures, got {type(items).__name__}")


def _without_errors(results: Results, on_error: Any) -> Results:
    with contextlib.closing(results):
        for result in results:
            if result.error is None:
                yield result
            elif on_error == "raise":
                raise result.error
            else:
                on_error(result.error)


def _note(skipped: list[ImageError], error: ImageError) -> None:
    """Store the first few errors, then one more error whose index counts the rest."""
    if len(skipped) <= _NAMED_ERRORS:
        skipped.append(error if len(skipped) < _NAMED_ERRORS else ImageError(0, "", ""))
    if len(skipped) > _NAMED_ERRORS:
        skipped[-1].index += 1


def _check_out(out: Any, count: int | None, features: int) -> None:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected a numpy array, got {type(out).__name__}")
    if out.dtype != np.float32:
        raise TypeError(f"out: expected dtype float32, got {out.dtype}")
    if out.ndim != 2 or out.shape[1] != features or (count is not None and len(out) != count):
        rows = "n" if count is None else count
        raise ValueError(f"out: expected shape [{rows}, {features}], got {list(out.shape)}")
    if not out.flags.writeable:
        raise ValueError("out: expected a writable array, got a read-only one")
