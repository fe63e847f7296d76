"""The options for decoding and resizing pictures, in one value that all functions pass on."""

import string
from dataclasses import dataclass
from typing import Any, Literal

from fastmnv2.image import resizing
from fastmnv2.image.resizing import Crop, Method

Decode = Literal["exact", "scaled"]
Colour = str | tuple[int, int, int]
"""Red, green and blue from 0 to 255, or "#rrggbb", "white" or "black"."""

MAX_PIXELS = 1 << 26
"""The default limit of pixels. Pictures whose decoder would take more than 6 times as many bytes are refused too."""

_NAMED = {"white": "#ffffff", "black": "#000000"}


@dataclass(frozen=True)
class Options:
    """How pictures are decoded and resized; see ``fastmnv2.embed_images``.

    A background colour is stored as "#rrggbb", which is unique for each colour and can be stored as JSON.
    """

    method: Method = "tf2"
    decode: Decode = "exact"
    exif: bool = True
    max_pixels: int = MAX_PIXELS
    size: tuple[int, int] = resizing.SIZE  # height and width after resizing
    crop: Crop | None = None
    background: Colour | None = None

    def __post_init__(self) -> None:
        resizing.check(self.size, self.method, self.crop)
        if self.decode not in ("exact", "scaled"):
            raise ValueError(f"decode: expected 'exact' or 'scaled', got {self.decode!r}")
        object.__setattr__(self, "size", tuple(self.size))  # JSON makes it a list
        object.__setattr__(self, "background", _colour(self.background))

    @property
    def rgb(self) -> tuple[int, int, int] | None:
        """The background as red, green and blue, from 0 to 255."""
        if self.background is None:
            return None
        red, green, blue = bytes.fromhex(str(self.background)[1:])
        return red, green, blue


def _is_byte(part: Any) -> bool:
    return type(part) is int and 0 <= part <= 255


def _colour(value: Any) -> str | None:
    """A background as "#rrggbb". ValueError if it is not a colour."""
    if value is None:
        return None
    if isinstance(value, str):
        text = _NAMED.get(value.lower(), value.lower())
        if len(text) == 7 and text[0] == "#" and set(text[1:]) <= set(string.hexdigits):
            return text
    elif isinstance(value, (tuple, list)) and len(value) == 3 and all(map(_is_byte, value)):
        return f"#{bytes(value).hex()}"
    raise ValueError(
        f"background: expected (red, green, blue) from 0 to 255, '#rrggbb', 'white' or 'black', got {value!r}"
    )
