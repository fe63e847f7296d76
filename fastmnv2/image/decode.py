"""Pictures of any kind to RGB: JPEG with simplejpeg where it is installed, all else with Pillow.

Both come with ``pip install 'fastmnv2[images]'``. What a picture becomes does not depend on whether simplejpeg is
there: the JPEGs that the two decoders may treat differently are left to Pillow.
"""

import contextlib
import io
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from fastmnv2.image import resizing
from fastmnv2.image.resizing import SIZE, Method, Rows

if TYPE_CHECKING:
    import PIL.Image

    File = str | os.PathLike[str] | bytes | BinaryIO | PIL.Image.Image
    """A picture that is not an array: a path or URL, the file's bytes, an open file, or Pillow's own."""

Decode = Literal["exact", "scaled"]

_COMMON = ("JPEG", "PNG", "BMP", "GIF", "PPM")  # Pillow knows these without importing all its readers
_OTHERS = ("WEBP", "TIFF", "AVIF", "ICO", "HEIF")
FORMATS = (*_COMMON, *_OTHERS)
_SUFFIXES = "jpg jpeg jpe jfif png bmp webp gif tif tiff avif ppm pgm pbm pnm ico heic heif"
SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
MAX_PIXELS = 1 << 26
"""Pictures with more pixels are refused: decoding takes up to 4 bytes a pixel, whatever the file's own size."""
MAX_BYTES = 1 << 28
"""Files that are read whole (from open files, URLs, and JPEGs) are refused when they are larger."""

_STRICT = frozenset({"444", "422", "420", "Gray"})  # samplings that every release decodes alike
_loading = tuple(threading.Lock() for _ in range(16))  # Pillow's pictures, by id: two items may be the same one


@dataclass(frozen=True)
class Options:
    """How pictures are decoded and resized; see ``fastmnv2.embed_images``."""

    method: Method = "tf2"
    decode: Decode = "exact"
    exif: bool = True
    max_pixels: int = MAX_PIXELS
    size: tuple[int, int] = SIZE  # height and width that they become

    def __post_init__(self) -> None:
        resizing.check(self.size, self.method)
        if self.decode not in ("exact", "scaled"):
            raise ValueError(f"decode: expected 'exact' or 'scaled', got {self.decode!r}")


@dataclass(frozen=True)
class Picture:
    """A decoded picture, whose rows are handed out as RGB; ``whole`` if all of them are there at no cost."""

    height: int
    width: int
    rows: Rows
    whole: bool

    def resize(self, out: NDArray[np.float32], method: str) -> None:
        """Into ``out``, float32 [h,w,3], in [0,1]."""
        shape = (self.height, self.width)
        resizing.resize_rows(shape, self.rows, out, method, resizing.UNIT, whole=self.whole)


def read(file: "File", *, exif: bool = False, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a picture: JPEG, PNG, BMP, WebP, GIF, TIFF, AVIF, PPM, ICO, or HEIC if pillow-heif is installed.

    The values are those of ``tf.io.decode_image(…, channels=3)``: alpha is dropped, not blended; greyscale and
    palettes become RGB; of 16 bits the high eight are kept; of several frames the first is taken. CMYK becomes
    RGB as Pillow does it, and colour profiles are not applied. JPEG: TensorFlow's default decoder
    (INTEGER_FAST) differs from this by up to 4 levels; ``tf.io.decode_jpeg(…,
    dct_method="INTEGER_ACCURATE")`` does not.

    Args:
        file: a path, an fsspec URL (needs ``fastmnv2[fsspec]``), the file's bytes, a file open in binary mode,
            or a Pillow picture.
        exif: turn the picture as its EXIF orientation says. TensorFlow does not.
        max_pixels: refuse larger pictures; Pillow's own limit (``PIL.Image.MAX_IMAGE_PIXELS``) holds too.

    Returns:
        uint8 ``[H,W,3]``, RGB.

    Raises:
        OSError: the file can't be opened.
        ValueError: it is no such picture, is truncated or broken, or has too many pixels.
        ImportError: Pillow, or what the URL needs, is not installed.
    """
    picture = open_picture(file, Options(exif=exif, max_pixels=max_pixels))
    if picture.whole:
        return np.ascontiguousarray(picture.rows(0, picture.height))
    result = np.empty((picture.height, picture.width, 3), np.uint8)
    step = max(1, (1 << 20) // picture.width)
    for start in range(0, picture.height, step):
        result[start : start + step] = picture.rows(start, min(start + step, picture.height))
    return result


def load_image(
    file: "File",
    size: tuple[int, int] = SIZE,
    *,
    method: Method = "tf2",
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.float32]:
    """Read a picture as the network wants it: decode, scale to [0,1], resize.

    Scaling comes before resizing, as in TF-Hub's own ``retrain.py``; the other order rounds differently.
    With ``exif=False``, PNG and BMP give the bits of ``tf.image.resize(tf.image.convert_image_dtype(
    tf.io.decode_image(data, channels=3), tf.float32), size)``; for JPEG see ``read``.

    Args:
        file: as for ``read``.
        size: as for ``resize``.
        method: as for ``resize``.
        exif: turn the picture as its EXIF orientation says, as viewers do; TensorFlow does not.
        max_pixels: as for ``read``.

    Returns:
        float32 ``[h,w,3]`` in [0,1], RGB.

    Raises:
        OSError, ValueError, TypeError, ImportError: as ``read`` and ``resize``.
    """
    options = Options(method, "exact", exif, max_pixels, size)
    result = np.empty((*size, 3), np.float32)
    open_picture(file, options).resize(result, method)
    return result


def name_of(item: Any) -> str:
    """What messages call a picture."""
    if isinstance(item, (str, os.PathLike)):
        return os.fspath(item)
    name = getattr(item, "name", None) or getattr(item, "filename", None)
    return str(name) if name and isinstance(name, (str, os.PathLike)) else f"<{type(item).__name__}>"


def open_picture(item: "File", options: Options, buffer: Callable[[int], NDArray[np.uint8]] | None = None) -> Picture:
    """Decodes ``item``. ``buffer`` gives memory of so many bytes, which holds the picture until the next call."""
    name = name_of(item)
    if hasattr(item, "getexif"):
        with _loading[id(item) // 64 % len(_loading)]:
            return _opened(item, name, options)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return _decode(bytes(item), name, options, buffer)
    if hasattr(item, "read"):
        return _decode(read_whole(item, name), name, options, buffer)
    if isinstance(item, str) and "://" in item:
        return _decode(_fetch(item), name, options, buffer)
    if not isinstance(item, (str, os.PathLike)):
        raise TypeError(
            f"expected a path, bytes, an open file, a Pillow picture or an array, got {type(item).__name__}"
        )
    path = Path(item)
    found = path.stat()
    mode = found.st_mode
    if not stat.S_ISREG(mode):  # opening a pipe could wait for ever
        raise ValueError(f"{path}: expected a picture, got {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}")
    with path.open("rb", buffering=0) as stream:
        if stream.read(2) == b"\xff\xd8":
            return _decode(read_whole(stream, name, found.st_size), name, options, buffer)
        with io.BufferedReader(stream) as buffered:
            return _pillow(buffered, name, options)


def read_whole(stream: Any, name: str, size: int = MAX_BYTES) -> bytes:
    """All of a file from its beginning (from where it stands, if it is a pipe), or its first ``size`` bytes."""
    with contextlib.suppress(AttributeError, OSError):  # of members of an archive that is itself a pipe
        if stream.seekable():
            stream.seek(0)
    most = min(size, MAX_BYTES) + 1
    data = stream.read(most)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"{name}: expected a file open in binary mode, whose read() gives bytes")
    while len(data) < most and (more := stream.read(most - len(data))):  # unbuffered ones give less at a time
        data = bytes(data) + more
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name}: expected a file of at most {MAX_BYTES} bytes, got more")
    return bytes(data)


def _fetch(url: str) -> bytes:
    try:
        import fsspec
    except ImportError as error:
        raise ImportError(f"{url}: URLs need fsspec: pip install 'fastmnv2[fsspec]'", name="fsspec") from error
    with fsspec.open(url, "rb") as stream:
        return read_whole(stream, url)


def _decode(data: bytes, name: str, options: Options, buffer: Callable[[int], NDArray[np.uint8]] | None) -> Picture:
    if data[:2] == b"\xff\xd8":
        found = _turbo(data, name, options, buffer)
        if found:
            return found
    return _pillow(io.BytesIO(data), name, options)


# ---- JPEG with simplejpeg ----


def _turbo(
    data: bytes, name: str, options: Options, buffer: Callable[[int], NDArray[np.uint8]] | None
) -> Picture | None:
    """The picture if it is one that Pillow would decode to the same bits, else None: Pillow says what is wrong."""
    simplejpeg = _simplejpeg()
    if not simplejpeg:
        return None
    try:
        height, width, colours, sampling = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray", "RGB") or sampling not in _STRICT:
            return None
        _check_pixels(name, height, width, options)
        shrink = _shrinking(height, width, options)
        height, width = -(-height // shrink), -(-width // shrink)
        smaller = {"min_height": height, "min_width": width} if shrink > 1 else {}
        room = buffer(height * width * 3) if buffer else None
        array = simplejpeg.decode_jpeg(data, "RGB", buffer=room, **smaller)
    except _TooLarge:
        raise
    except ValueError:
        return None
    orientation = 1
    if options.exif:
        head = data[: _end_of_head(data)]
        if b"Exif\0" in head or b"tiff:Orientation" in head:
            import PIL.Image

            try:
                with PIL.Image.open(io.BytesIO(data), formats=["JPEG"]) as opened:
                    orientation = _orientation(opened)
            except Exception:  # Pillow has its say on the whole of it
                return None
    array = _turned(array, orientation)
    return Picture(len(array), array.shape[1], lambda start, stop: array[start:stop], whole=True)


def _simplejpeg() -> Any:
    try:
        import simplejpeg
        from PIL import features
    except ImportError:
        return None
    # Another libjpeg than this one rounds otherwise.
    return simplejpeg if features.check_feature("libjpeg_turbo") else None


def _end_of_head(data: bytes) -> int:
    """Where the first scan of a JPEG starts."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


def _shrinking(height: int, width: int, options: Options) -> int:
    """By how much the decoder may shrink: both edges stay at least twice the target's."""
    most = min(height, width) // (2 * max(options.size)) if options.decode == "scaled" else 1
    return next(shrink for shrink in (8, 4, 2, 1) if shrink <= max(most, 1))


class _TooLarge(ValueError):
    pass


def _check_pixels(name: str, height: int, width: int, options: Options) -> None:
    if height * width > options.max_pixels:
        raise _TooLarge(f"{name}: expected a picture of at most {options.max_pixels} pixels, got {width} x {height}")


# ---- all else with Pillow ----


def _pillow(stream: BinaryIO, name: str, options: Options) -> Picture:
    try:
        import PIL.Image
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'fastmnv2[images]'", name="PIL") from error
    if not stream.read(1):
        raise ValueError(f"{name}: expected a picture, got an empty file")
    stream.seek(0)
    try:
        with _identified(stream) as opened:
            _check_pixels(name, opened.height, opened.width, options)
            if opened.format in ("JPEG", "MPO"):
                shrink = _shrinking(opened.height, opened.width, options)
                opened.draft(opened.mode, (opened.width // shrink, opened.height // shrink))
            return _opened(opened, name, options)
    except PIL.UnidentifiedImageError as error:
        expected = "expected a JPEG, PNG, BMP, WebP, GIF, TIFF, AVIF, PPM, ICO or HEIC picture"
        raise ValueError(f"{name}: {expected}, got something else{_hint(stream)}") from error
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(f"{name}: more pixels than Pillow takes for safe: {error}") from error
    except Exception as error:
        raise _explained(error, name) from error


def _explained(error: Exception, name: str) -> Exception:
    """Pillow's readers raise all kinds of things on broken files."""
    if isinstance(error, (MemoryError, _TooLarge)):
        return error
    text = str(error) or type(error).__name__
    return ValueError(text if text.startswith(name) else f"{name}: a broken or truncated picture: {text}")


def _identified(stream: BinaryIO) -> "PIL.Image.Image":
    import PIL.Image

    try:
        return PIL.Image.open(stream, formats=_COMMON)
    except PIL.UnidentifiedImageError:
        PIL.Image.init()
        stream.seek(0)
        if _is_heic(stream):
            _learn_heic()
        return PIL.Image.open(stream, formats=[name for name in _OTHERS if name in PIL.Image.OPEN])


def _is_heic(stream: BinaryIO) -> bool:
    head = stream.read(12)
    stream.seek(0)
    return head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis")


def _learn_heic() -> None:
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def _hint(stream: BinaryIO) -> str:
    stream.seek(0)
    return " (HEIC needs pillow-heif, which is not installed)" if _is_heic(stream) else ""


def _opened(opened: Any, name: str, options: Options) -> Picture:
    """Pillow's picture, decoded, its rows turned and converted when they are asked for."""
    _check_pixels(name, opened.height, opened.width, options)
    try:
        opened.load()
        orientation = _orientation(opened) if options.exif else 1
        _band(opened.crop((0, 0, 1, 1)))  # tells now whether this mode can be converted
    except Exception as error:
        raise _explained(error, name) from error
    height, width = opened.height, opened.width

    def rows(start: int, stop: int) -> NDArray[np.uint8]:
        if orientation in (3, 4):
            box = (0, height - stop, width, height - start)
        elif orientation in (5, 6):
            box = (start, 0, stop, height)
        elif orientation in (7, 8):
            box = (width - stop, 0, width - start, height)
        else:
            box = (0, start, width, stop)
        return _turned(_band(opened.crop(box)), orientation)

    shown = (width, height) if orientation >= 5 else (height, width)
    return Picture(shown[0], shown[1], rows, whole=False)


def _orientation(opened: Any) -> int:
    found = opened.getexif().get(0x0112, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turned(array: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A view of an array as EXIF's orientation wants it shown."""
    if orientation in (2, 3, 7, 8):
        array = array[:, ::-1]
    if orientation in (3, 4, 6, 7):
        array = array[::-1]
    return array.swapaxes(0, 1) if orientation >= 5 else array


def _band(band: "PIL.Image.Image") -> NDArray[np.uint8]:
    """RGB of any mode; Pillow itself would clip 16-bit greyscale to 255."""
    if band.mode.startswith("I"):
        values = np.asarray(band)
        if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 0xFFFF:
            raise ValueError("expected at most 16 bits a channel, got 32")
        grey = (values >> 8).astype(np.uint8)
        return np.repeat(grey[..., np.newaxis], 3, axis=2)
    if band.mode == "F":
        raise ValueError("expected 8 or 16 bits a channel, got floating point")
    if band.mode == "P":
        band = band.convert("RGBA")  # straight to RGB, Pillow warns about transparent palettes
    return np.asarray(band if band.mode == "RGB" else band.convert("RGB"))
