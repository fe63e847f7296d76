"""Pictures to arrays: decode with Pillow, resize exactly as TensorFlow does.

``load_image`` is the whole preprocessing: a file in, float32 ``[96,96,3]`` in [0,1] out. Only ``read`` and
``load_image`` need Pillow (``pip install 'fastmnv2[images]'``).
"""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from fastmnv2 import arrays

if TYPE_CHECKING:
    import PIL.Image

Method = Literal["tf2", "tf1"]

SIZE = (arrays.SIZE, arrays.SIZE)
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp"})
MAX_PIXELS = 1 << 26
"""Pictures with more pixels are refused: decoding takes 7 bytes a pixel, whatever the file's own size."""

_BAND_PIXELS = 1 << 20
_UNIT = np.float32(1 / 255)  # tf.image.convert_image_dtype multiplies by this, it does not divide by 255


def resize(image: Any, size: tuple[int, int] = SIZE, *, method: Method = "tf2") -> NDArray[np.float32]:
    """Resize bilinearly without antialiasing, bit for bit as TensorFlow on x86-64 does.

    Args:
        image: ``[H,W,C]`` or ``[n,H,W,C]``, uint8, float32 or another real dtype, which is computed with
            as float32.
        size: height and width of the result, in pixels.
        method: "tf2" samples at half-pixel centres, as ``tf.image.resize(image, size)``; "tf1" samples at
            ``i * scale``, as ``tf.compat.v1.image.resize_bilinear`` and TF-Hub's ``retrain.py``. They give
            features 30 to 50 % apart (relative L2) on photos: use what the rest of a data set was made with.

    Returns:
        float32 ``[h,w,C]`` or ``[n,h,w,C]``, in the input's own scale: [0,255] for uint8.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    return _interpolate(_checked(image), size, method, None)


def read(
    file: str | os.PathLike[str] | BinaryIO, *, exif: bool = False, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG, BMP or WebP picture (the first frame, if there are several).

    The values are those of ``tf.io.decode_image(…, channels=3)``: alpha is dropped, not blended; greyscale
    and palettes become RGB; of 16 bits the high eight are kept. JPEG: TensorFlow's default decoder
    (INTEGER_FAST) differs from this by up to 4 levels; ``tf.io.decode_jpeg(…,
    dct_method="INTEGER_ACCURATE")`` does not.

    Args:
        file: a path, or a seekable file open in binary mode.
        exif: turn the picture as its EXIF orientation says. TensorFlow does not, hence the default.
        max_pixels: refuse larger pictures; Pillow's own limit (``PIL.Image.MAX_IMAGE_PIXELS``) holds too.

    Returns:
        uint8 ``[H,W,3]``, RGB.

    Raises:
        OSError: the file can't be opened.
        ValueError: it is no such picture, is truncated or broken, or has too many pixels.
        ImportError: Pillow is not installed.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'fastmnv2[images]'", name="PIL") from error
    if not isinstance(file, (str, os.PathLike)):
        return _decode(file, str(getattr(file, "name", "<file>")), exif, max_pixels)
    path = Path(file)
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):  # opening a pipe could wait for ever
        raise ValueError(f"{path}: expected a picture, got {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}")
    with path.open("rb") as stream:
        return _decode(stream, str(path), exif, max_pixels)


def load_image(
    file: str | os.PathLike[str] | BinaryIO,
    size: tuple[int, int] = SIZE,
    *,
    method: Method = "tf2",
    exif: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.float32]:
    """Read a picture as the network wants it: decode, scale to [0,1], resize.

    Scaling comes before resizing, as in TF-Hub's own ``retrain.py``; the other order rounds differently.
    For PNG and BMP, the bits are those of ``tf.image.resize(tf.image.convert_image_dtype(
    tf.io.decode_image(data, channels=3), tf.float32), size)``; for JPEG see ``read``.

    Returns:
        float32 ``[h,w,3]`` in [0,1], RGB.

    Raises:
        OSError, ValueError, TypeError, ImportError: as ``read`` and ``resize``.
    """
    return _interpolate(read(file, exif=exif, max_pixels=max_pixels), size, method, _UNIT)


def _checked(image: Any) -> NDArray[Any]:
    array = np.asarray(image)
    if array.dtype.kind not in "uif":
        raise TypeError(f"image: expected uint8, float32 or another real dtype, got {array.dtype}")
    if array.ndim not in (3, 4) or 0 in array.shape[-3:]:
        raise ValueError(f"image: expected shape [H, W, C] or [n, H, W, C], not empty; got {list(array.shape)}")
    return array


def _interpolate(
    image: NDArray[Any], size: tuple[int, int], method: str, unit: np.float32 | None
) -> NDArray[np.float32]:
    if method not in ("tf2", "tf1"):
        raise ValueError(f"method: expected 'tf2' or 'tf1', got {method!r}")
    if len(size) != 2 or not all(isinstance(edge, (int, np.integer)) and edge > 0 for edge in size):
        raise ValueError(f"size: expected (height, width), two positive ints, got {size!r}")
    top, bottom, down = _weights(image.shape[-3], size[0], method)
    left, right, across = _weights(image.shape[-2], size[1], method)
    across = across[:, np.newaxis]

    def at(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        # Only the four neighbours of each output pixel are ever made float: a large picture is not copied.
        corner = image[..., rows[:, np.newaxis], columns, :].astype(np.float32)
        return corner if unit is None else corner * unit

    def between(rows: NDArray[np.intp]) -> NDArray[np.float32]:
        first = at(rows, left)
        return first + (at(rows, right) - first) * across

    upper = between(top)
    result: NDArray[np.float32] = upper + (between(bottom) - upper) * down[:, np.newaxis, np.newaxis]
    return result


def _weights(source: int, target: int, method: str) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Along one axis: each output pixel's two neighbours, and how far it is from the first to the second."""
    scale = np.float32(source) / np.float32(target)
    half = np.float32(0.5 if method == "tf2" else 0)
    place = (np.arange(target, dtype=np.float32) + half) * scale - half
    floor = np.floor(place)
    first = np.maximum(floor, 0).astype(np.intp)
    second = np.minimum(np.ceil(place).astype(np.intp), source - 1)
    # Float32 rounding may put the last place of a very long axis past its end.
    return np.minimum(first, source - 1), second, place - floor


def _decode(stream: BinaryIO, name: str, exif: bool, max_pixels: int) -> NDArray[np.uint8]:
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(stream, formats=FORMATS) as opened:
            width, height = opened.size
            if width * height <= max_pixels:
                picture: PIL.Image.Image = opened
                if exif:
                    picture = PIL.ImageOps.exif_transpose(opened)
                return _to_rgb(picture)
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"{name}: expected a JPEG, PNG, BMP or WebP picture, got something else") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise all kinds of things on broken files
        raise ValueError(f"{name}: a broken or truncated picture: {error or type(error).__name__}") from error
    raise ValueError(f"{name}: expected a picture of at most {max_pixels} pixels, got {width} x {height}")


def _to_rgb(picture: "PIL.Image.Image") -> NDArray[np.uint8]:
    # In bands: a conversion of the whole, and numpy's two copies of it, would double the memory.
    width, height = picture.size
    result = np.empty((height, width, 3), np.uint8)
    step = max(1, _BAND_PIXELS // width)
    for start in range(0, height, step):
        stop = min(start + step, height)
        result[start:stop] = _band_to_rgb(picture.crop((0, start, width, stop)))
    return result


def _band_to_rgb(band: "PIL.Image.Image") -> NDArray[np.uint8]:
    if band.mode.startswith("I"):  # 16-bit greyscale; Pillow itself would clip it to 255
        return (np.asarray(band) >> 8).astype(np.uint8)[..., np.newaxis]
    if band.mode == "P":
        band = band.convert("RGBA")  # straight to RGB, Pillow warns about transparent palettes
    return np.asarray(band if band.mode == "RGB" else band.convert("RGB"))
