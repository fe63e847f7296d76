"""Pictures to arrays with Pillow (``pip install 'fastmnv2[images]'``): decoded as TensorFlow does, and resized."""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastmnv2.image.resizing import SIZE, Method, interpolate

if TYPE_CHECKING:
    import PIL.Image

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp"})
MAX_PIXELS = 1 << 26
"""Pictures with more pixels are refused: decoding takes 7 bytes a pixel, whatever the file's own size."""

_BAND_PIXELS = 1 << 20
_UNIT = np.float32(1 / 255)  # tf.image.convert_image_dtype multiplies by this, it does not divide by 255


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
    return interpolate(read(file, exif=exif, max_pixels=max_pixels), size, method, _UNIT)


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
