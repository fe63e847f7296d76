"""Strip metadata from files. It may be damaged or too large for a reader, and the pixels don't depend on it."""

import zlib
from typing import Literal

from fastmnv2.image import jpeg

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_ALPHA = {0: range(2, 3), 2: range(6, 7), 3: range(1, 257)}  # valid lengths of tRNS by the header's colour type
_TIFF: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
_JPEG_KEPT = (0xE0, 0xEE)  # JFIF's and Adobe's markers, which define the colour space
_WEBP_KEPT = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"EXIF")
_WEBP_FLAGS = 0x12  # the flags "alpha" and "animation" of a VP8X chunk
_WEBP_EXIF = 0x08
# Tags that define the pixels or the orientation: sizes, strips and tiles, colours, compression.
_TIFF_KEPT = {
    254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 336,
    338, 339, 347, 513, 514, 529, 530, 531, 532,
}  # fmt: skip


def without(data: bytes) -> bytes | None:
    """A PNG, JPEG, WebP or TIFF without unnecessary metadata; None for other files, or if nothing was removed."""
    if data.startswith(_PNG):
        found = _png(data)
    elif data.startswith(jpeg.START):
        found = _jpeg(data)
    elif data[:4] + data[8:12] == b"RIFFWEBP":
        found = _webp(data)
    elif data[:4] in _TIFF:
        found = _tiff(data)
    else:
        return None
    return found if found != data else None


def _png(data: bytes) -> bytes:
    kept, at = [_PNG], len(_PNG)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if not kind[:1].islower() or (_matters(data, kind, end - at - 12) and _is_sound(data[at:end])):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _matters(data: bytes, kind: bytes, length: int) -> bool:
    """Whether an ancillary chunk holds alpha or orientation."""
    return kind == b"eXIf" or (kind == b"tRNS" and length in _PNG_ALPHA.get(data[25], ()))


def _is_sound(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _jpeg(data: bytes) -> bytes:
    kept, at, start = [data[: len(jpeg.START)]], len(jpeg.START), jpeg.end_of_head(data)
    while at + 4 <= start:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        code, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        optional = 0xE0 <= code <= 0xEF or code == 0xFE
        if not optional or code in _JPEG_KEPT or data[at + 4 : at + 10] == b"Exif\0\0":
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])  # from ``at``, not ``start``, to keep a segment that is cut short


def _webp(data: bytes) -> bytes:
    kept, at = list[bytes](), 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        if data[at : at + 4] in _WEBP_KEPT and at + 8 + size <= len(data):
            kept.append(data[at:end])
        at = end
    if kept and kept[0][:4] == b"VP8X":
        has_exif = any(chunk.startswith(b"EXIF") for chunk in kept)
        flags = kept[0][8] & _WEBP_FLAGS | (_WEBP_EXIF if has_exif else 0)
        kept[0] = kept[0][:8] + bytes([flags]) + kept[0][9:]
    body = b"".join([b"WEBP", *kept])
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _tiff(data: bytes) -> bytes:
    """The file with only the tags ``_TIFF_KEPT`` in its first directory. Everything else stays at its position."""
    order = _TIFF[data[:4]]
    at = int.from_bytes(data[4:8], order)
    count = int.from_bytes(data[at : at + 2], order)
    tags = [data[start : start + 12] for start in range(at + 2, at + 2 + 12 * count, 12)]
    kept = b"".join(tag for tag in tags if int.from_bytes(tag[:2], order) in _TIFF_KEPT)
    directory = (len(kept) // 12).to_bytes(2, order) + kept + bytes(4)  # the end: no next directory
    return data[:at] + directory + data[at + len(directory) :]
