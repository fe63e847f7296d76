"""Strip metadata from files. It may be damaged or too large for a reader, and the pixels don't depend on it."""

import zlib

from fastmnv2.image import jpeg

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_ALPHA = {0: range(2, 3), 2: range(6, 7), 3: range(1, 257)}  # valid lengths of tRNS by the header's colour type
_JPEG_KEPT = (0xE0, 0xEE)  # JFIF's and Adobe's markers, which define the colour space


def without(data: bytes) -> bytes | None:
    """A PNG or JPEG without the metadata that its pixels don't need; None for other files, or if there is none."""
    if data.startswith(_PNG):
        found = _png(data)
    elif data.startswith(jpeg.START):
        found = _jpeg(data)
    else:
        return None
    return found if len(found) < len(data) else None


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
        if data[at + 1] == 0xFF:  # fill
            at += 1
            continue
        code, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        optional = 0xE0 <= code <= 0xEF or code == 0xFE
        if not optional or code in _JPEG_KEPT or data[at + 4 : at + 10] == b"Exif\0\0":
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])  # from ``at``, not ``start``, to keep a segment that is cut short
