"""JPEG: decoding with simplejpeg if it is installed, and checks of the file's markers."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.image.limits import TooLarge, check
from fastmnv2.image.options import Options

Buffer = Callable[[int], NDArray[np.uint8]]
"""A function that returns memory of a given size in bytes, which holds a picture until the next call."""

MAX_SCANS = 64
"""The maximum number of scans, because a scan of 30 bytes can cost work on every pixel. Usual JPEGs have up to ten."""

START = b"\xff\xd8"
_SCAN = b"\xff\xda"
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)  # start-of-frame markers
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_STRICT = frozenset({"444", "422", "420", "Gray"})  # chroma subsamplings that every release decodes to the same bits


def check_scans(data: bytes, name: str, height: int, width: int, options: Options) -> None:
    """Raise TooLarge if decoding takes more memory or more scans than allowed for the picture's pixels."""
    several = _has_several_scans(data)
    if several and data.count(_SCAN) > MAX_SCANS and _count_scans(data) > MAX_SCANS:
        raise TooLarge(f"{name}: expected a JPEG of at most {MAX_SCANS} scans, got more")
    check(name, height, width, options, "scans" if several else None)


def _has_several_scans(data: bytes) -> bool:
    """Whether a decoder expects several scans: the frame is progressive, or the first scan lacks a colour."""
    at, colours = len(START), 0
    while at + 10 <= len(data) and data[at] == 0xFF:
        code, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if code in _SEQUENTIAL:
            colours = data[at + 9]
        elif code == 0xDA:
            return data[at + 4] != colours
        at += 1 if code == 0xFF else 2 + length
    return True  # also if the markers are broken, to be safe


def _count_scans(data: bytes) -> int:
    """The number of scans, at most ``MAX_SCANS + 1``."""
    at, scans = len(START), 0
    while scans <= MAX_SCANS and (found := _MARKER.search(data, at)):
        code, at = found[1][0], found.end()
        if code == 0xD9:  # the end
            break
        scans += code == 0xDA
        if code not in (0x01, 0xD8):  # these have no length
            at += int.from_bytes(data[at : at + 2], "big")
    return scans


def end_of_head(data: bytes) -> int:
    """The position of the first scan."""
    at = len(START)
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


def shrinking(height: int, width: int, options: Options) -> int:
    """The factor by which the decoder may shrink a picture so that both edges are at least twice the network's."""
    rows, columns = options.size
    most = min(height // (2 * rows), width // (2 * columns)) if options.decode == "scaled" else 1
    return next(shrink for shrink in (8, 4, 2, 1) if shrink <= max(most, 1))


def turbo(data: bytes, name: str, options: Options, buffer: Buffer | None) -> Any:
    """Decode to uint8 [H,W,3] if Pillow would give the same bits; otherwise None, and Pillow decodes or reports why."""
    simplejpeg = _simplejpeg()
    if not simplejpeg:
        return None
    try:
        height, width, colours, sampling = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray", "RGB") or sampling not in _STRICT:
            return None
        check_scans(data, name, height, width, options)
        shrink = shrinking(height, width, options)
        height, width = -(-height // shrink), -(-width // shrink)
        smaller = {"min_height": height, "min_width": width} if shrink > 1 else {}
        memory = buffer(height * width * 3) if buffer else None
        return simplejpeg.decode_jpeg(data, "RGB", buffer=memory, **smaller)
    except TooLarge:
        raise
    except ValueError:
        return None


def _simplejpeg() -> Any:
    try:
        import simplejpeg
        from PIL import features
    except ImportError:
        return None
    # Pillow gives the same bits only if it also uses libjpeg-turbo; other libraries round differently.
    return simplejpeg if features.check_feature("libjpeg_turbo") else None
