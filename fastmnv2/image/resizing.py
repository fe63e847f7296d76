"""Resize bit for bit as TensorFlow does: in C for 8-bit RGB (csrc/image), with numpy for everything else."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.network import DEFAULT
from fastmnv2.image import _resize

Method = Literal["tf2", "tf1", "area"]
Crop = Literal["center"]

METHODS = ("tf2", "tf1", "area")
SIZE = DEFAULT.size
"""The default height and width of resized pictures: those of "imagenet"."""
UNIT = np.float32(1 / 255)
"""tf.image.convert_image_dtype multiplies bytes by this instead of dividing by 255."""

_BAND_PIXELS = 1 << 18  # maximum pixels of a band: a part of a picture that is not available as a whole
_ROWS = 16  # but a band has at least this many rows, however wide the picture
_LONG = 1 << 14  # inputs along an axis: longer axes are resized in pieces, and their weights are not cached

Part = Callable[[int, int, int, int], NDArray[np.uint8]]
"""A function (top, bottom, left, right) that returns these rows and columns of a picture, as uint8
[bottom - top, right - left, 3] with any strides."""


class Window(NamedTuple):
    """The part of a picture that is resized."""

    top: int
    left: int
    height: int
    width: int


def resize(
    image: Any, size: tuple[int, int] = SIZE, *, method: Method = "tf2", crop: Crop | None = None
) -> NDArray[np.float32]:
    """Resize bilinearly, bit for bit as TensorFlow on x86-64 does.

    Args:
        image: ``[H,W,C]`` or ``[n,H,W,C]``, uint8, float32 or another real dtype, which is converted to float32.
        size: height and width of the result, in pixels.
        method: "tf2" samples at half-pixel centres, like ``tf.image.resize(image, size)``. "tf1" samples at
            ``i * scale``, like ``tf.compat.v1.image.resize_bilinear`` and TF-Hub's ``retrain.py``. Both ignore pixels
            between the samples. "area" averages them, like ``tf.image.resize(image, size, antialias=True)``, with a
            triangle as wide as two output pixels. Features of photos differ by 30 to 50 % (relative L2) from method
            to method, so use one method for a whole data set.
        crop: None resizes the whole image, which distorts it if its aspect ratio is not that of ``size``. "center"
            resizes the largest window with the aspect ratio of ``size`` in the middle of the image. For an image H x W
            and a size h x w, the window is as wide as the image and ``round(W * h / w)`` rows high if that is at most
            H; otherwise it is as high as the image and ``round(H * w / h)`` columns wide. Halves are rounded up. The
            window begins at row ``(H - height) // 2`` and column ``(W - width) // 2``.

    Returns:
        float32 ``[h,w,C]`` or ``[n,h,w,C]``, as ``embed`` takes it. uint8 is scaled to [0,1] first, as by
        ``tf.image.convert_image_dtype(image, tf.float32)``. Other dtypes keep their scale.

    Raises:
        TypeError, ValueError: if an argument is not as above.
    """
    array = _checked(image)
    check(size, method, crop)
    result = np.empty((*array.shape[:-3], *size, array.shape[-1]), np.float32)
    unit = UNIT if array.dtype == np.uint8 else np.float32(1)
    for source, out in zip(array, result, strict=True) if array.ndim == 4 else ((array, result),):
        resize_array(source, out, method, unit, crop=crop)
    return result


def check(size: tuple[int, int], method: str, crop: str | None = None) -> None:
    """Raise ValueError unless ``resize`` accepts these arguments."""
    check_method(method, crop)
    if len(size) != 2 or not all(isinstance(edge, (int, np.integer)) and edge > 0 for edge in size):
        raise ValueError(f"size: expected (height, width), two positive ints, got {size!r}")


def check_method(method: str, crop: str | None) -> None:
    """The same without ``size``."""
    if method not in METHODS:
        raise ValueError(f"method: expected 'tf2', 'tf1' or 'area', got {method!r}")
    if crop not in (None, "center"):
        raise ValueError(f"crop: expected None or 'center', got {crop!r}")


def window(shape: tuple[int, ...], size: tuple[int, ...], crop: str | None) -> Window:
    """The part of a picture of ``shape`` that is resized to ``size``: see ``resize``."""
    height, width = shape
    if crop is None:
        return Window(0, 0, height, width)
    rows, columns = (max(1, (2 * width * size[0] + size[1]) // (2 * size[1])), width)
    if rows > height:
        rows, columns = height, min(width, max(1, (2 * height * size[1] + size[0]) // (2 * size[0])))
    return Window((height - rows) // 2, (width - columns) // 2, rows, columns)


def resize_array(
    image: NDArray[Any], out: NDArray[np.float32], method: str, unit: np.float32, *, crop: str | None = None
) -> None:
    """Resize ``image`` [H,W,C] times ``unit`` into ``out`` [h,w,C], which is C-contiguous."""
    top, left, height, width = window(image.shape[:2], out.shape[:2], crop)
    image = image[top : top + height, left : left + width]

    def part(top: int, bottom: int, left: int, right: int) -> NDArray[np.uint8]:
        return image[top:bottom, left:right]

    def copied(*box: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(part(*box))

    if image.dtype == np.uint8 and image.shape[-1] == 3 and image.strides[-1] == 1:
        resize_parts(Window(0, 0, height, width), part, out, method, unit, whole=True)
    elif method == "area" and image.dtype == np.uint8 and image.shape[-1] == 3:  # such as grey with strides of 0
        resize_parts(Window(0, 0, height, width), copied, out, method, unit, whole=False)
    elif method == "area":
        _average(image, out, unit)
    else:
        out[...] = _interpolate(image, out.shape[:2], method, unit)


def resize_parts(
    of: Window, part: Part, out: NDArray[np.float32], method: str, unit: np.float32, *, whole: bool
) -> None:
    """Resize a window of a picture into ``out``. ``part`` returns its parts; ``whole``: whether it needs no bands."""
    isa = _isa(os.environ.get("FASTMNV2_ISA"))
    columns = list(_pieces(of.width, out.shape[1], method, _LONG))
    widest = max(piece.inputs.stop - piece.inputs.start for piece in columns)
    # At least a few rows: with single rows, each would be converted again for every output that needs it.
    most = _LONG if whole else max(_ROWS, _BAND_PIXELS // widest)
    for rows in _pieces(of.height, out.shape[0], method, min(most, _LONG)):
        for across in columns:
            top, bottom = (of.top + edge for edge in (rows.inputs.start, rows.inputs.stop))
            left, right = (of.left + edge for edge in (across.inputs.start, across.inputs.stop))
            place = out[rows.outputs, across.outputs]
            target = place if place.flags.c_contiguous else np.empty_like(place, order="C")
            # The part is not kept in a variable, so its memory is freed before the next part is made.
            _resize.resize(isa, part(top, bottom, left, right), rows.axis, across.axis, float(unit), target)
            if target is not place:
                place[...] = target


@functools.cache
def _isa(forced: str | None) -> str:
    """The instruction set that ``fastmnv2.isa`` returns, cached because CPUID is slow on virtual machines."""
    names, name = _resize.isas(), (forced or "").strip().lower()
    if name and name not in names:
        raise ValueError(f"FASTMNV2_ISA: expected one of {', '.join(names)} on this machine, got {name!r}")
    return name or names[-1]


# ---- where to sample ----

_Places = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]


class _Piece(NamedTuple):
    """Some outputs along an axis, the inputs that they need, and where to sample these."""

    outputs: slice
    inputs: slice
    axis: _resize.Places | _resize.Spans


def _pieces(source: int, target: int, method: str, most: int) -> Iterable[_Piece]:
    """Divide an axis into pieces of at most ``most`` inputs, or of one output if that needs more."""
    if source <= min(most, _LONG):
        return [_whole_axis(source, target, method)]
    return _short_pieces(source, target, method, most)


@functools.lru_cache(64)  # at 8 bytes for each input of "area", 8 MB in total
def _whole_axis(source: int, target: int, method: str) -> _Piece:
    outputs, inputs = slice(0, target), slice(0, source)
    return _Piece(outputs, inputs, _axis(source, target, method, outputs, inputs))


def _short_pieces(source: int, target: int, method: str, most: int) -> Iterator[_Piece]:
    starts, ends = _extents(source, target, method)
    start = 0
    while start < target:
        stop = max(start + 1, int(np.searchsorted(ends, starts[start] + most, "right")))
        outputs, inputs = slice(start, stop), slice(int(starts[start]), int(ends[stop - 1]))
        yield _Piece(outputs, inputs, _axis(source, target, method, outputs, inputs))
        start = stop


def _axis(source: int, target: int, method: str, outputs: slice, inputs: slice) -> _resize.Places | _resize.Spans:
    """The C core's description of some outputs along an axis, relative to the available inputs."""
    first, count = np.int32(inputs.start), inputs.stop - inputs.start
    if method == "area":
        starts, counts, weights = _spans(source, target, outputs)
        return _resize.Spans(count, starts - first, counts, weights)
    left, right, place = (part[outputs] for part in _places(source, target, method))
    return _resize.Places(count, left - first, right - first, place)


def _extents(source: int, target: int, method: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Each output's first input, and the input after its last one. Neither decreases from one output to the next."""
    if method == "area":
        _, starts, last, _ = _triangles(source, target, slice(None))
        return starts, last + np.int32(1)
    left, right, _ = _places(source, target, method)
    return left, np.maximum(left, right) + np.int32(1)


def _places(source: int, target: int, method: str) -> _Places:
    """Each output's two neighbours, and its position between them from 0 to 1."""
    scale = np.float32(source) / np.float32(target)
    half = np.float32(0.5 if method == "tf2" else 0)
    place = (np.arange(target, dtype=np.float32) + half) * scale - half
    floor = np.floor(place)
    first, second = _within(floor, source), _within(np.ceil(place), source)
    return first, second, place - floor


def _within(places: NDArray[np.float32], source: int) -> NDArray[np.int32]:
    """Clamp positions to an axis. On a very long axis, float32 may round the last position past the end."""
    return np.clip(places.astype(np.int64), 0, source - 1).astype(np.int32)


def _triangles(
    source: int, target: int, outputs: slice
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32], np.float32]:
    """The centres, first inputs and last inputs of the outputs of "area", and their common radius.

    This is the triangle of TensorFlow's ScaleAndTranslate. Its weight falls from an output's centre to 0 at the
    centres of the neighbouring outputs, or of the next inputs if the picture is enlarged.
    """
    one, half = np.float32(1), np.float32(0.5)
    step = one / (np.float32(target) / np.float32(source))
    radius = max(step, one)
    centre = (np.arange(target, dtype=np.float32)[outputs] + half) * step
    first, last = _within(np.ceil(centre - radius - half), source), _within(np.floor(centre + radius - half), source)
    return centre, first, last, radius


def _spans(source: int, target: int, outputs: slice) -> _Places:
    """For some outputs: the first input, the number of inputs, and their weights [outputs, most], which sum to 1."""
    centre, first, last, radius = _triangles(source, target, outputs)
    one, half = np.float32(1), np.float32(0.5)
    counts = last - first + np.int32(1)
    inputs = first[:, np.newaxis] + np.arange(counts.max(), dtype=np.int32)
    distance = np.abs((inputs.astype(np.float32) + half - centre[:, np.newaxis]) * (one / radius))
    weights = np.where((distance < 1) & (inputs <= last[:, np.newaxis]), one - distance, np.float32(0))
    total = np.add.accumulate(weights, axis=1)[:, -1:]  # in order, unlike numpy's sum
    return first, counts, weights * (one / total)


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
        # Converts only the four neighbours of each output pixel to float, so a large picture is not copied.
        return image[rows[:, np.newaxis], columns].astype(np.float32) * unit

    def between(rows: NDArray[np.int32]) -> NDArray[np.float32]:
        first = at(rows, left)
        return first + (at(rows, right) - first) * across[:, np.newaxis]

    upper = between(top)
    result: NDArray[np.float32] = upper + (between(bottom) - upper) * down[:, np.newaxis, np.newaxis]
    return result


def _average(image: NDArray[Any], out: NDArray[np.float32], unit: np.float32) -> None:
    """Average down and then across, adding the terms in order."""
    if max(image.shape[:2]) > _LONG:
        _average_long(image, out, unit)
        return
    middle = _sum_spans(image, out.shape[0], unit)
    out[...] = _sum_spans(middle.swapaxes(0, 1), out.shape[1], np.float32(1)).swapaxes(0, 1)


def _sum_spans(image: NDArray[Any], target: int, unit: np.float32) -> NDArray[np.float32]:
    """Weighted sums along the first axis, for all outputs at once."""
    starts, _, weights = _spans(len(image), target, slice(None))
    result = np.zeros((target, *image.shape[1:]), np.float32)
    for i, column in enumerate(weights.T):
        values = image[np.minimum(starts + i, len(image) - 1)].astype(np.float32)
        result += column[:, np.newaxis, np.newaxis] * (values if unit == 1 else values * unit)
    return result


def _average_long(image: NDArray[Any], out: NDArray[np.float32], unit: np.float32) -> None:
    """The same, one output and some columns at a time, because long axes would otherwise take gigabytes of memory."""
    (height, width), (rows, columns) = image.shape[:2], out.shape[:2]
    starts, ends = _extents(width, columns, "area")
    out[...] = 0
    across: dict[int, NDArray[np.float32]] = {}
    for first in range(0, width, _LONG):
        part = image[:, first : first + _LONG]
        stop = first + part.shape[1]
        middle = np.empty((rows, *part.shape[1:]), np.float32)
        for row, (start, weights) in zip(middle, _by_output(height, rows), strict=True):
            values = part[start : start + len(weights)].astype(np.float32) * unit
            _add(weights[:, np.newaxis, np.newaxis] * values, row, initial=np.zeros_like(row))
        touched = range(int(np.searchsorted(ends, first, "right")), int(np.searchsorted(starts, stop, "left")))
        across = {o: across[o] if o in across else _of_output(width, columns, o)[1] for o in touched}
        for output, weights in across.items():
            start = int(starts[output])
            here = slice(max(start, first), min(start + len(weights), stop))
            terms = middle[:, here.start - first : here.stop - first].swapaxes(0, 1)
            terms = weights[here.start - start : here.stop - start, np.newaxis, np.newaxis] * terms
            _add(terms, out[:, output], initial=out[:, output])


def _add(terms: NDArray[np.float32], out: NDArray[np.float32], initial: NDArray[np.float32]) -> None:
    """Set ``out`` to ``initial`` plus the ``terms``, added in order."""
    if len(terms) > 64:  # numpy's accumulate is fast along long axes
        out[...] = np.add.accumulate(np.concatenate([initial[np.newaxis], terms]), axis=0)[-1]
        return
    total = initial.copy()
    for term in terms:
        total += term
    out[...] = total


def _of_output(source: int, target: int, output: int) -> tuple[int, NDArray[np.float32]]:
    (start,), _, (weights,) = _spans(source, target, slice(output, output + 1))
    return int(start), weights


def _by_output(source: int, target: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    return (_of_output(source, target, output) for output in range(target))
