"""Files without the metadata that may be damaged, or too large for a reader: the pixels don't depend on them."""

import zlib

from fastmnv2.image import jpeg

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"tRNS", b"eXIf")  # alpha and orientation, where they are sound; critical chunks are kept anyway
_JPEG_KEPT = (0xE0, 0xEE)  # JFIF's and Adobe's, which tell the colours


def without(data: bytes) -> bytes | None:
    """A PNG or JPEG with no more than its pixels need; None of anything else, or where that is all of it."""
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
        ancillary = kind[:1].islower()
        sound = zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if not ancillary or (kind in _PNG_KEPT and sound):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


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
    return b"".join([*kept, data[start:]])
