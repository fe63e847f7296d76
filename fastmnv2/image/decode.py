"""Decode pictures of any kind to RGB: JPEG with simplejpeg if it is installed, everything else with Pillow.

Both come with ``pip install 'fastmnv2[images]'``. The result does not depend on whether simplejpeg is installed,
because JPEGs that the two decoders may treat differently always go to Pillow.
"""

import base64
import binascii
import contextlib
import hashlib
import io
import os
import stat
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastmnv2.image import jpeg, keys, pillow
from fastmnv2.image.jpeg import Buffer
from fastmnv2.image.limits import MAX_BYTES
from fastmnv2.image.options import MAX_PIXELS, Colour, Decode, Options
from fastmnv2.image.pillow import FORMATS, Picture
from fastmnv2.image.resizing import SIZE, Crop, Method

if TYPE_CHECKING:
    import PIL.Image

    File = str | os.PathLike[str] | os.PathLike[bytes] | bytes | BinaryIO | PIL.Image.Image
    """A picture that is not an array: a path or URL, the file's bytes, an open file, or a Pillow picture."""

__all__ = ["FORMATS", "MAX_BYTES", "MAX_PIXELS", "SUFFIXES", "Colour", "Decode", "Options", "Picture"]

_SUFFIXES = "jpg jpeg jpe jfif png bmp webp gif tif tiff avif ppm pgm pbm pnm ico heic heif"
SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())

_EXPECTED = "expected a path, bytes, an open file, a Pillow picture or an array"
_PATH_BYTES = 4096  # the maximum length of a path


def read(
    file: "File", *, exif: bool = False, max_pixels: int = MAX_PIXELS, background: Colour | None = None
) -> NDArray[np.uint8]:
    """Decode a picture: JPEG, PNG, BMP, WebP, GIF, TIFF, AVIF, PPM, ICO, or HEIC if pillow-heif is installed.

    The values are those of ``tf.io.decode_image(…, channels=3)``: alpha is dropped, not blended, unless there is a
    ``background``; greyscale and palettes become RGB; 16-bit values keep their high eight bits; only the first of
    several frames is read. Pillow converts CMYK to RGB, and colour profiles are not applied. For JPEG,
    TensorFlow's default decoder (INTEGER_FAST) differs by up to 4 levels; ``tf.io.decode_jpeg(…,
    dct_method="INTEGER_ACCURATE")`` gives the same values.

    Args:
        file: a path, an fsspec URL (needs ``fastmnv2[fsspec]``), a ``data:`` URL, the file's bytes, a file open in
            binary mode, or a Pillow picture.
        exif: turn the picture upright by its EXIF orientation. TensorFlow does not.
        max_pixels: refuse larger pictures; Pillow's own limit (``PIL.Image.MAX_IMAGE_PIXELS``) applies too. Pictures
            whose decoder would take more than ``6 * max_pixels`` bytes are also refused: see docs/pictures.md.
        background: a colour behind transparent parts: (red, green, blue) from 0 to 255, "#rrggbb", "white" or "black".

    Returns:
        uint8 ``[H,W,3]``, RGB.

    Raises:
        OSError: if the file can't be opened.
        ValueError: if it is not a picture of these kinds, is truncated or broken, or has too many pixels.
        ImportError: if Pillow, or a package that the URL needs, is not installed.
    """
    return read_with(file, Options(exif=exif, max_pixels=max_pixels, background=background))


def read_with(file: "File", options: Options) -> NDArray[np.uint8]:
    """The same as ``read``, with ``Options``. The picture is neither cropped nor resized."""
    picture = open_picture(file, options)
    height, width = picture.height, picture.width
    if picture.whole:
        return np.ascontiguousarray(picture.part(0, height, 0, width))
    result = np.empty((height, width, 3), np.uint8)
    step = max(1, (1 << 20) // width)
    for top in range(0, height, step):
        result[top : top + step] = picture.part(top, min(top + step, height), 0, width)
    return result


def load_image(
    file: "File",
    size: tuple[int, int] = SIZE,
    *,
    method: Method = "tf2",
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
    crop: Crop | None = None,
    background: Colour | None = None,
) -> NDArray[np.float32]:
    """Read a picture as the network takes it: decode, scale to [0,1], resize.

    Scaling comes before resizing, as in TF-Hub's own ``retrain.py``; the other order rounds differently.
    With ``exif=False``, PNG and BMP give the bits of ``tf.image.resize(tf.image.convert_image_dtype(
    tf.io.decode_image(data, channels=3), tf.float32), size)``; for JPEG see ``read``.

    Args:
        file: as for ``read``.
        size: as for ``resize``.
        method: as for ``resize``.
        exif: turn the picture upright by its EXIF orientation, as viewers do; TensorFlow does not.
        max_pixels: as for ``read``.
        crop: as for ``resize``.
        background: as for ``read``.

    Returns:
        float32 ``[h,w,3]`` in [0,1], RGB.

    Raises:
        OSError, ValueError, TypeError, ImportError: as ``read`` and ``resize``.
    """
    options = Options(method, "exact", exif, max_pixels, size, crop, background)
    result = np.empty((*size, 3), np.float32)
    open_picture(file, options).resize(result, options)
    return result


def content(path: str | os.PathLike[str]) -> tuple[bytes, bytes]:
    """A file's bytes and their SHA-256. Decode these bytes, not the file, so that the hash certainly matches.

    Raises:
        OSError: if it can't be opened.
        ValueError: if it is not a regular file, or is too large to read into memory.
    """
    with _opened(path) as stream:
        data = read_whole(stream, name_of(path))
    return data, hashlib.sha256(data).digest()


def name_of(item: Any) -> str:
    """The name of a picture in messages."""
    try:
        if isinstance(item, (str, os.PathLike)):
            path = os.fsdecode(item)
            longest = 40 if keys.is_data(path) else _PATH_BYTES
            return path if len(path) <= longest else f"{path[:40]}…"
        name = getattr(item, "name", None) or getattr(item, "filename", None)
        if name and isinstance(name, (str, os.PathLike)):
            return os.fsdecode(name)
    except Exception:  # the item's own code may raise anything; a missing name should not stop the call
        pass
    return f"<{type(item).__name__}>"


def open_picture(item: "File", options: Options, buffer: Buffer | None = None) -> Picture:
    """Decode ``item``.

    ``buffer(size)`` returns memory of that size, which holds the picture until the next call.
    """
    name = name_of(item)
    if hasattr(item, "getexif"):
        with _picture_locks.hold(item):
            return pillow.of_pillow(item, name, options)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return _of_bytes(bytes(item), name, options, buffer)
    if hasattr(item, "read"):
        return _of_bytes(read_whole(item, name), name, options, buffer)
    if isinstance(item, str) and keys.is_data(item):
        return _of_bytes(_data_url_bytes(item, name), name, options, buffer)
    if isinstance(item, str) and "://" in item:
        return _of_bytes(_fetch(item), name, options, buffer)
    if not isinstance(item, (str, os.PathLike)):
        raise TypeError(f"{_EXPECTED}, got {type(item).__name__}")
    with _opened(item) as stream:
        if stream.read(2) == jpeg.START:
            data = read_whole(stream, name, os.fstat(stream.fileno()).st_size)
            return _of_bytes(data, name, options, buffer)
        with io.BufferedReader(stream) as buffered:
            return pillow.decode(buffered, name, options)


def _opened(path: str | os.PathLike[str] | os.PathLike[bytes]) -> Any:
    """Open a regular file for unbuffered reading."""
    name = os.fsdecode(path)
    if not name:
        raise ValueError("expected the path of a picture, got an empty one")
    found = Path(name)
    mode = found.stat().st_mode
    if not stat.S_ISREG(mode):  # opening a pipe could wait for ever
        kind = "a folder" if stat.S_ISDIR(mode) else "a special file"
        raise ValueError(f"{found}: expected a picture, got {kind}")
    return found.open("rb", buffering=0)


def read_whole(stream: Any, name: str, size: int = MAX_BYTES) -> bytes:
    """Read a file from its beginning (a pipe from its current position), up to ``size`` bytes."""
    with contextlib.suppress(AttributeError, OSError):  # pipes, and members of an archive in a pipe, can't seek
        if stream.seekable():
            stream.seek(0)
    most = min(size, MAX_BYTES) + 1
    data = stream.read(most)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"{name}: expected a file open in binary mode, got one whose read() returns no bytes")
    while len(data) < most and (more := stream.read(most - len(data))):  # unbuffered files may return less
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


def _data_url_bytes(url: str, name: str) -> bytes:
    """The content of a data: URL, as browsers read it: white space and a missing padding in base64 are allowed."""
    head, comma, text = url.partition(",")
    if not comma:
        raise ValueError(f"{name}: expected a comma in a data: URL, as in data:image/png;base64,…")
    data = urllib.parse.unquote_to_bytes(text)
    if not head.lower().replace(" ", "").endswith(";base64"):
        return data
    data = b"".join(data.split())
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f"{name}: expected base64 in a data: URL: {error}") from error


def _of_bytes(data: bytes, name: str, options: Options, buffer: Buffer | None) -> Picture:
    if data[:2] == jpeg.START:
        array = jpeg.turbo(data, name, options, buffer)
        if array is not None:
            return pillow.of_array(array, orientation=_orientation(data) if options.exif else 1)
    try:
        return pillow.decode(io.BytesIO(data), name, options)
    except ValueError as error:
        if kind := _text_kind(data):
            message = f"expected the bytes of a picture, got a {kind} in bytes; pass os.fsdecode({kind})"
            raise ValueError(f"{name}: {message}") from error
        raise


def _text_kind(data: bytes) -> str:
    """The kind of text that was given as bytes: "url" (a data URL), "path", or "" for anything else."""
    if keys.is_data(data[:5].decode("latin-1")):
        return "url"
    if len(data) >= _PATH_BYTES or b"\0" in data:
        return ""
    return "path" if os.path.exists(data) or Path(os.fsdecode(data)).suffix.lower() in SUFFIXES else ""


def _orientation(data: bytes) -> int:
    head = data[: jpeg.end_of_head(data)]
    if b"Exif\0" not in head and b"tiff:Orientation" not in head:
        return 1
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data), formats=["JPEG"]) as opened:
            return pillow.orientation_of(opened)
    except Exception:  # broken metadata doesn't affect the pixels
        return 1


# ---- one Pillow picture may be several items, but only one thread may decode it at a time ----


class _PictureLocks:
    """A lock for each Pillow picture that is being decoded.

    Locks are made on demand, because gevent may replace ``threading``'s. A forked process starts without locks, because
    threads that exist only in its parent may hold them.
    """

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._guard = threading.Lock()  # held only briefly, never while waiting
        self._locks: dict[int, tuple[threading.Lock, list[None]]] = {}

    @contextlib.contextmanager
    def hold(self, picture: Any) -> Iterator[None]:
        """Hold the picture's lock."""
        key = id(picture)
        with self._guard:
            lock, users = self._locks.setdefault(key, (threading.Lock(), []))
            users.append(None)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                users.pop()
                if not users:
                    self._locks.pop(key, None)


_picture_locks = _PictureLocks()
