"""Limits for pictures: the number of pixels bounds the decoder's memory and work, whatever the file declares."""

from fastmnv2.image.options import Options

MAX_BYTES = 1 << 28
"""The maximum size of files that are read into memory (open files, URLs, and JPEGs)."""

BYTES = 4
"""Bytes that the decoder needs for each pixel, except in the formats below."""

# WebP: two canvases, the frame and Pillow's picture. AVIF and HEIF: the planes, the frame and Pillow's picture.
_BYTES = {"WEBP": 16, "AVIF": 12, "HEIF": 8}
_OF_COEFFICIENTS = 10  # decoders hold all coefficients of a JPEG with several scans
_BUDGET = 6  # bytes that decoding may take for each of ``max_pixels`` pixels


class TooLarge(ValueError):
    """A picture whose decoding would take too much memory or work."""


def check(name: str, height: int, width: int, options: Options, kind: str | None = None, extra: int = 0) -> None:
    """Raise TooLarge if there are too many pixels, or if the format's decoder would take too much memory for them.

    ``kind`` is Pillow's name of the format, or "scans" for a JPEG with several scans; ``extra`` bytes are added.
    """
    pixels, most = height * width, options.max_pixels
    if pixels > most:
        raise TooLarge(f"{name}: expected a picture of at most {most} pixels, got {width} x {height}")
    each = _OF_COEFFICIENTS if kind == "scans" else _BYTES.get(kind or "", BYTES)
    if each * pixels + extra > _BUDGET * most:
        what = "JPEG of several scans" if kind == "scans" else f"{kind} picture"
        raise TooLarge(
            f"{name}: decoding this {what} of {width} x {height} pixels takes {(each * pixels + extra) >> 20} MB, "
            f"expected at most {_BUDGET * most >> 20} MB, {_BUDGET} bytes for each of max_pixels={most}"
        )
