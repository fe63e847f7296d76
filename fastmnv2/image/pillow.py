"""Decode pictures of any kind with Pillow. Parts of a picture are rotated and converted on demand."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import text_of
from fastmnv2.image import jpeg, limits, metadata, resizing
from fastmnv2.image.limits import TooLarge
from fastmnv2.image.options import Options
from fastmnv2.image.resizing import Part

if TYPE_CHECKING:
    import PIL.Image

_COMMON = ("JPEG", "PNG", "BMP", "GIF", "PPM")  # Pillow knows these without importing all its readers
_OTHERS = ("WEBP", "TIFF", "AVIF", "ICO", "HEIF")
FORMATS = (*_COMMON, *_OTHERS)

_ORIENTATION = 0x0112
_UNDONE = {6: 8, 8: 6}  # inverses of orientations; every other one is its own inverse
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


@dataclass(frozen=True)
class Picture:
    """A decoded picture. ``part`` returns parts as RGB; ``whole``: whether it is already an RGB array."""

    height: int
    width: int
    part: Part
    whole: bool

    def resize(self, out: NDArray[np.float32], options: Options) -> None:
        """Resize into ``out``, float32 [h,w,3], in [0,1]."""
        of = resizing.window((self.height, self.width), out.shape[:2], options.crop)
        resizing.resize_parts(of, self.part, out, options.method, resizing.UNIT, whole=self.whole)


def of_array(array: NDArray[np.uint8], *, orientation: int = 1) -> Picture:
    """A picture from an RGB array, rotated."""
    shown = _turned(array, orientation)
    return Picture(len(shown), shown.shape[1], lambda *box: shown[box[0] : box[1], box[2] : box[3]], whole=True)


def of_rgba(array: NDArray[np.uint8], background: tuple[int, int, int]) -> Picture:
    """A picture from an RGBA array, blended over a colour."""

    def part(top: int, bottom: int, left: int, right: int) -> NDArray[np.uint8]:
        return _blended(array[top:bottom, left:right], background)

    return Picture(len(array), array.shape[1], part, whole=False)


def decode(stream: BinaryIO, name: str, options: Options) -> Picture:
    """The picture in a file.

    Raises:
        ValueError: if it is not a picture, is broken, or is too large.
        ImportError: if Pillow is not installed.
    """
    try:
        import PIL.Image
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'fastmnv2[images]'", name="PIL") from error
    if not stream.read(1):
        raise ValueError(f"{name}: expected a picture, got an empty file")
    stream.seek(0)
    try:
        return _decoded(stream, name, options)
    except (MemoryError, TooLarge):
        raise
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(f"{name}: more pixels than Pillow's own limit: {error}") from error
    except Exception as error:
        if stripped := _without_metadata(stream, name, options):
            return stripped
        if isinstance(error, PIL.UnidentifiedImageError):
            expected = "expected a JPEG, PNG, BMP, WebP, GIF, TIFF, AVIF, PPM, ICO or HEIC picture"
            lacking = _lacking(stream)
            raise ValueError(f"{name}: {expected}, got something else{f' ({lacking})' if lacking else ''}") from (
                ImportError(str(lacking))
                if lacking
                else error  # marks the error as transient: another machine may read it
            )
        raise _explained(error, name) from error


def _decoded(stream: BinaryIO, name: str, options: Options) -> Picture:
    with _identified(stream) as opened:
        return of_pillow(opened, name, options, ours=True)


def _without_metadata(stream: BinaryIO, name: str, options: Options) -> Picture | None:
    """The picture if it can be read without its metadata."""
    try:
        stream.seek(0)
        smaller = metadata.without(stream.read(limits.MAX_BYTES + 1))
        return _decoded(io.BytesIO(smaller), name, options) if smaller else None
    except Exception:  # the first error is more useful
        return None


def _explained(error: Exception, name: str) -> Exception:
    """A ValueError for the many kinds of exceptions that Pillow's readers raise on broken files."""
    if isinstance(error, (MemoryError, TooLarge)):
        return error
    text = text_of(error)
    return ValueError(text if text.startswith(name) else f"{name}: a broken or truncated picture: {text}")


def _identified(stream: BinaryIO) -> "PIL.Image.Image":
    import PIL.Image

    try:
        return PIL.Image.open(stream, formats=_COMMON)
    except PIL.UnidentifiedImageError:
        PIL.Image.init()
        stream.seek(0)
        if _is_heic(stream):
            _register_heic()
        return PIL.Image.open(stream, formats=[name for name in _OTHERS if name in PIL.Image.OPEN])


def _is_heic(stream: BinaryIO) -> bool:
    head = stream.read(12)
    stream.seek(0)
    return head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis")


def _register_heic() -> None:
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def _lacking(stream: BinaryIO) -> str | None:
    """A message about the reader that this Pillow lacks for a picture; None unless another Pillow may read it."""
    stream.seek(0)
    if _is_heic(stream):
        return "HEIC needs pillow-heif, which is not installed"
    head = stream.read(12)
    kind = "AVIF" if head[4:12] == b"ftypavif" else "WEBP" if head[:4] + head[8:] == b"RIFFWEBP" else ""
    import PIL.Image

    return f"{kind} needs a newer Pillow, or one built with {kind}" if kind and kind not in PIL.Image.OPEN else None


# ---- a picture that Pillow has opened ----


def of_pillow(opened: Any, name: str, options: Options, *, ours: bool = False) -> Picture:
    """A Pillow picture, decoded. ``ours``: whether this module opened it and may decode a JPEG at a reduced size."""
    fresh = getattr(opened, "_im", None) is None  # not decoded yet; a decoded picture needs no further memory
    kind = opened.format if fresh else None
    limits.check(name, opened.height, opened.width, options, kind, _strip(opened) if kind == "TIFF" else 0)
    try:
        if kind in ("JPEG", "MPO"):
            _check_jpeg(opened, name, options)
            if ours:
                shrink = jpeg.shrinking(opened.height, opened.width, options)
                opened.draft(opened.mode, (opened.width // shrink, opened.height // shrink))
        turned = _loaded(opened)
        orientation = orientation_of(opened) if options.exif else _UNDONE.get(turned, turned)
        _rgb(opened.crop((0, 0, 1, 1)), options.rgb)  # raises now if this mode can't be converted
    except Exception as error:
        raise _explained(error, name) from error
    height, width = opened.height, opened.width

    def part(top: int, bottom: int, left: int, right: int) -> NDArray[np.uint8]:
        box = _stored((height, width), (top, bottom, left, right), orientation)
        return _turned(_rgb(opened.crop(box), options.rgb), orientation)

    shown = (width, height) if orientation >= 5 else (height, width)
    limits.check(name, *shown, options)  # the size of icons is unknown before decoding
    return Picture(*shown, part, whole=False)


def _strip(opened: Any) -> int:
    """Extra bytes that a compressed TIFF's reader needs: a strip of its rows."""
    if not opened.tile or opened.tile[0][0] != "libtiff" or 322 in opened.tag_v2:  # tiles are small
        return 0
    rows, bits = opened.tag_v2.get(278, opened.height), opened.tag_v2.get(258, (8,))
    try:
        return int(opened.width * min(int(rows), opened.height) * sum(map(int, bits)) // 8)
    except TypeError:  # tags of a wrong type
        return int(opened.width * opened.height * 8)


def _check_jpeg(opened: Any, name: str, options: Options) -> None:
    """Check a JPEG's markers, without changing the file's position."""
    if opened.fp is None:
        return
    at = opened.fp.tell()
    opened.fp.seek(0)
    data = opened.fp.read(limits.MAX_BYTES)
    opened.fp.seek(at)
    jpeg.check_scans(data, name, opened.height, opened.width, options)


def _loaded(opened: Any) -> int:
    """Make Pillow decode its picture. Return the orientation that Pillow has already applied, as it does for TIFFs."""
    before = opened.tag_v2.get(_ORIENTATION, 1) if opened.format == "TIFF" and opened.tile else 1
    opened.load()
    after = opened.tag_v2.get(_ORIENTATION, 1) if before != 1 else 1
    return before if before != after and isinstance(before, int) and 1 <= before <= 8 else 1


def orientation_of(opened: Any) -> int:
    """EXIF's orientation, from 1 to 8; 1 if it is missing or unreadable."""
    try:
        found = opened.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF data doesn't affect the pixels
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _stored(shape: tuple[int, int], box: tuple[int, int, int, int], orientation: int) -> tuple[int, int, int, int]:
    """Map a box in the displayed picture to a box in the stored one: left, top, right, bottom."""
    (height, width), down, across = shape, box[:2], box[2:]
    if orientation >= 5:
        down, across = across, down
    if orientation in (2, 3, 7, 8):
        across = (width - across[1], width - across[0])
    if orientation in (3, 4, 6, 7):
        down = (height - down[1], height - down[0])
    return across[0], down[0], across[1], down[1]


def _turned(array: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A view of an array, rotated and mirrored by EXIF's orientation."""
    if orientation in (2, 3, 7, 8):
        array = array[:, ::-1]
    if orientation in (3, 4, 6, 7):
        array = array[::-1]
    return array.swapaxes(0, 1) if orientation >= 5 else array


def _rgb(band: "PIL.Image.Image", background: tuple[int, int, int] | None) -> NDArray[np.uint8]:
    """Convert a picture of any mode to RGB. Pillow's own conversion would clip 16-bit greyscale to 255."""
    if band.mode.startswith("I"):
        return _of_grey16(band, background)
    if band.mode == "F":
        raise ValueError("expected 8 or 16 bits a channel, got floating point")
    if background is not None and (band.mode in _ALPHA or "transparency" in band.info):
        return _blended(np.asarray(band.convert("RGBA")), background)
    if band.mode == "P":
        band = band.convert("RGBA")  # Pillow warns about transparent palettes if they are converted directly to RGB
    return np.asarray(band if band.mode == "RGB" else band.convert("RGB"))


def _of_grey16(band: "PIL.Image.Image", background: tuple[int, int, int] | None) -> NDArray[np.uint8]:
    values = np.asarray(band)
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 0xFFFF:
        raise ValueError("expected at most 16 bits a channel, got 32")
    grey = np.repeat((values >> 8).astype(np.uint8)[..., np.newaxis], 3, axis=2)
    clear = band.info.get("transparency")
    if background is not None and isinstance(clear, int):
        grey[values == clear] = background
    return grey


def _blended(rgba: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Blend uint8 [h,w,4] over a colour: ``round((c * alpha + background * (255 - alpha)) / 255)``."""
    alpha = rgba[..., 3:].astype(np.uint16)
    behind = np.array(background, np.uint16) * (255 - alpha)
    return ((rgba[..., :3] * alpha + behind + 127) // 255).astype(np.uint8)
