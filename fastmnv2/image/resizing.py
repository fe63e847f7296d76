"""Resizing with TensorFlow's own bits: in C for RGB of 8 bits (csrc/image), with numpy for all else."""

import functools
import os
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.network import DEFAULT
from fastmnv2.image import _resize

Method = Literal["tf2", "tf1", "area"]

METHODS = ("tf2", "tf1", "area")
SIZE = DEFAULT.size
"""What pictures become where nobody says otherwise: "imagenet"'s height and width."""
UNIT = np.float32(1 / 255)
"""tf.image.convert_image_dtype multiplies bytes by this, it does not divide by 255."""

_BAND_PIXELS = 1 << 18

Rows = Callable[[int, int], NDArray[np.uint8]]
"""Rows start to stop of a picture, uint8 [stop - start, W, 3], of any strides."""


def resize(image: Any, size: tuple[int, int] = SIZE, *, method: Method = "tf2") -> NDArray[np.float32]:
    """Resize bilinearly, bit for bit as TensorFlow on x86-64 does.

    Args:
        image: ``[H,W,C]`` or ``[n,H,W,C]``, uint8, float32 or another real dtype, which is computed with
            as float32.
        size: height and width of the result, in pixels.
        method: "tf2" samples at half-pixel centres, as ``tf.image.resize(image, size)``; "tf1" samples at
            ``i * scale``, as ``tf.compat.v1.image.resize_bilinear`` and TF-Hub's ``retrain.py``. Neither
            averages what lies between the samples; "area" does, as ``tf.image.resize(image, size,
            antialias=True)``: a triangle as wide as two output pixels. They give features 30 to 50 % apart
            (relative L2) on photos: use what the rest of a data set was made with.

    Returns:
        float32 ``[h,w,C]`` or ``[n,h,w,C]``, as ``embed`` takes it: uint8 is scaled to [0,1] first, as by
        ``tf.image.convert_image_dtype(image, tf.float32)``; other dtypes keep their scale.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    array = _checked(image)
    check(size, method)
    result = np.empty((*array.shape[:-3], *size, array.shape[-1]), np.float32)
    for source, out in zip(array, result, strict=True) if array.ndim == 4 else ((array, result),):
        resize_array(source, out, method, UNIT if array.dtype == np.uint8 else np.float32(1))
    return result


def check(size: tuple[int, int], method: str) -> None:
    """ValueError unless both are as ``resize`` takes them."""
    if method not in METHODS:
        raise ValueError(f"method: expected 'tf2', 'tf1' or 'area', got {method!r}")
    if len(size) != 2 or not all(isinstance(edge, (int, np.integer)) and edge > 0 for edge in size):
        raise ValueError(f"size: expected (height, width), two positive ints, got {size!r}")


def resize_array(image: NDArray[Any], out: NDArray[np.float32], method: str, unit: np.float32) -> None:
    """``image`` [H,W,C] times ``unit``, resized into ``out`` [h,w,C], which is C-contiguous."""
    if image.dtype == np.uint8 and image.shape[-1] == 3 and image.strides[-1] == 1:
        resize_rows(image.shape[:2], lambda start, stop: image[start:stop], out, method, unit, whole=True)
    elif method == "area":
        middle = _sum_spans(image, _spans(image.shape[0], out.shape[0]), unit)
        out[...] = _sum_spans(middle.swapaxes(0, 1), _spans(image.shape[1], out.shape[1]), None).swapaxes(0, 1)
    else:
        out[...] = _interpolate(image, out.shape[:2], method, unit)


def resize_rows(
    shape: tuple[int, ...], rows: Rows, out: NDArray[np.float32], method: str, unit: np.float32, *, whole: bool
) -> None:
    """The same from a picture of ``shape`` that is there in part: in bands of rows, unless ``whole``."""
    height, width = shape
    down, across = _axis(height, out.shape[0], method), _axis(width, out.shape[1], method)
    if whole:
        _resize.resize(_isa(os.environ.get("FASTMNV2_ISA")), rows(0, height), down, across, float(unit), out)
        return
    most, start = max(1, _BAND_PIXELS // width), 0
    starts, ends = _extents(height, out.shape[0], method)
    while start < len(starts):
        stop = max(start + 1, int(np.searchsorted(ends, starts[start] + most, "right")))
        first, last = int(starts[start]), int(ends[stop - 1])
        part = _axis_part(height, out.shape[0], method, slice(start, stop), first, last)
        _resize.resize(
            _isa(os.environ.get("FASTMNV2_ISA")), rows(first, last), part, across, float(unit), out[start:stop]
        )
        start = stop


@functools.cache
def _isa(forced: str | None) -> str:
    """As ``fastmnv2.isa``; kept, for asking the processor takes a virtual machine as long as resizing does."""
    names, name = _resize.isas(), (forced or "").strip().lower()
    if name and name not in names:
        raise ValueError(f"FASTMNV2_ISA: expected one of {', '.join(names)} on this machine, got {name!r}")
    return name or names[-1]


# ---- where to sample ----

_Places = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]


@functools.lru_cache(256)
def _axis(source: int, target: int, method: str) -> _resize.Places | _resize.Spans:
    return _axis_part(source, target, method, slice(None), 0, source)


def _axis_part(
    source: int, target: int, method: str, outputs: slice, first: int, last: int
) -> _resize.Places | _resize.Spans:
    """Some outputs along an axis, of which inputs first to last are there."""
    if method == "area":
        starts, counts, weights = (part[outputs] for part in _spans(source, target))
        return _resize.Spans(last - first, starts - np.int32(first), counts, np.ascontiguousarray(weights))
    left, right, place = (part[outputs] for part in _places(source, target, method))
    return _resize.Places(last - first, left - np.int32(first), right - np.int32(first), place)


def _extents(source: int, target: int, method: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Each output's first input, and the one after its last. Neither goes back from one output to the next."""
    if method == "area":
        starts, counts, _ = _spans(source, target)
        return starts, starts + counts
    left, right, _ = _places(source, target, method)
    return left, np.maximum(left, right) + np.int32(1)


@functools.lru_cache(64)
def _places(source: int, target: int, method: str) -> _Places:
    """Each output's two neighbours, and how far it is from the first to the second."""
    scale = np.float32(source) / np.float32(target)
    half = np.float32(0.5 if method == "tf2" else 0)
    place = (np.arange(target, dtype=np.float32) + half) * scale - half
    floor = np.floor(place)
    # Float32 rounding may put the last place of a very long axis past its end.
    first = np.clip(floor, 0, source - 1).astype(np.int32)
    second = np.minimum(np.ceil(place), source - 1).astype(np.int32)
    return first, second, place - floor


@functools.lru_cache(64)
def _spans(source: int, target: int) -> _Places:
    """Each output's first input, how many it takes, and their weights [target, most], which add up to 1.

    The triangle of TensorFlow's ScaleAndTranslate: it falls from an output's centre to nothing at the centres of its
    neighbours (or, where the picture grows, of the next inputs).
    """
    one, half = np.float32(1), np.float32(0.5)
    step = one / (np.float32(target) / np.float32(source))
    radius = max(step, one)
    centre = (np.arange(target, dtype=np.float32) + half) * step
    start = np.clip(np.ceil(centre - radius - half), 0, source - 1).astype(np.int32)
    last = np.clip(np.floor(centre + radius - half), 0, source - 1).astype(np.int32)
    inputs = start[:, np.newaxis] + np.arange(min(2 * int(np.ceil(radius)) + 1, source), dtype=np.int32)
    distance = np.abs((inputs.astype(np.float32) + half - centre[:, np.newaxis]) * (one / radius))
    weights = np.where((distance < 1) & (inputs <= last[:, np.newaxis]), one - distance, np.float32(0))
    total = np.zeros(target, np.float32)
    for column in weights.T:  # one after the other, for numpy's own sum adds in another order
        total += column
    return start, last - start + np.int32(1), weights * (one / total)[:, np.newaxis]


# ---- with numpy ----


def _checked(image: Any) -> NDArray[Any]:
    array = np.asarray(image)
    if array.dtype.kind not in "uif":
        raise TypeError(f"image: expected uint8, float32 or another real dtype, got {array.dtype}")
    if array.ndim not in (3, 4) or 0 in array.shape[-3:]:
        raise ValueError(f"image: expected shape [H, W, C] or [n, H, W, C], not empty; got {list(array.shape)}")
    return array


def _interpolate(image: NDArray[Any], size: tuple[int, ...], method: str, unit: np.float32) -> NDArray[np.float32]:
    top, bottom, down = _places(image.shape[0], size[0], method)
    left, right, across = _places(image.shape[1], size[1], method)

    def at(rows: NDArray[np.int32], columns: NDArray[np.int32]) -> NDArray[np.float32]:
        # Only the four neighbours of each output pixel are ever made float: a large picture is not copied.
        return image[rows[:, np.newaxis], columns].astype(np.float32) * unit

    def between(rows: NDArray[np.int32]) -> NDArray[np.float32]:
        first = at(rows, left)
        return first + (at(rows, right) - first) * across[:, np.newaxis]

    upper = between(top)
    result: NDArray[np.float32] = upper + (between(bottom) - upper) * down[:, np.newaxis, np.newaxis]
    return result


def _sum_spans(image: NDArray[Any], spans: _Places, unit: np.float32 | None) -> NDArray[np.float32]:
    """Weighted sums along the first axis, the terms taken in order."""
    starts, _, weights = spans
    result = np.zeros((len(starts), *image.shape[1:]), np.float32)
    for i, column in enumerate(weights.T):
        values = image[np.minimum(starts + i, len(image) - 1)].astype(np.float32)
        result += column[:, np.newaxis, np.newaxis] * (values if unit is None else values * unit)
    return result
