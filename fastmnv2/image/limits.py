"""What a picture may cost: its decoder's memory and work are bounded by its pixels, whatever its file asks for."""

from fastmnv2.image.options import Options

MAX_BYTES = 1 << 28
"""Files that are read whole (from open files, URLs, and JPEGs) are refused when they are larger."""

BYTES = 4
"""That a decoded pixel takes, unless its format says more."""

_BYTES = {"WEBP": 16, "AVIF": 12, "HEIF": 8}  # two canvases, the frame and Pillow's picture; planes, frame, picture
_OF_COEFFICIENTS = 10  # JPEGs of several scans are decoded when all of their coefficients are there
_BUDGET = 6  # bytes of each of max_pixels


class TooLarge(ValueError):
    """A picture that would cost too much."""


def check(name: str, height: int, width: int, options: Options, kind: str | None = None, extra: int = 0) -> None:
    """TooLarge if there are too many pixels, or too many for a format whose decoder takes more than others.

    ``kind`` is Pillow's name of the format, or "scans" for a JPEG of several; ``extra`` bytes are needed besides.
    """
    pixels, most = height * width, options.max_pixels
    if pixels > most:
        raise TooLarge(f"{name}: expected a picture of at most {most} pixels, got {width} x {height}")
    each = _OF_COEFFICIENTS if kind == "scans" else _BYTES.get(kind or "", BYTES)
    if each * pixels + extra > _BUDGET * most:
        what = "JPEG of several scans" if kind == "scans" else f"{kind} picture"
        raise TooLarge(
            f"{name}: decoding this {what} of {width} x {height} pixels takes {(each * pixels + extra) >> 20} MB, "
            f"expected at most {_BUDGET * most >> 20}: {_BUDGET} bytes for each of max_pixels, {most}"
        )
