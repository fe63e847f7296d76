"""What every weights reader returns: named arrays, and where they came from."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastmnv2.errors import printable
from fastmnv2.head import Head

_NOTES_LIMIT = 20

NO_BACKGROUND = -1e30
"""The logit that stands for a class which a file does not have: its probability is 0."""


def range_of(scale: float, shift: float) -> tuple[float, float] | None:
    """What black and white become under a file's ``x * scale + shift``; None if that keeps no picture.

    A file says what it does, not what to: pixels in [0,255], or in [0,1]. What becomes of pixels is of the order of
    1, and an offset is never many times a pixel's largest value. So 1/127.5 and -1 are for [0,255], 2 and -1 for [0,1].
    """
    pixels = 255 * abs(scale) <= 16 or abs(shift) > 8 * abs(scale)
    # Rounded, so that 255 * (1 / 127.5) is 2.
    black, white = (float(np.float32(value)) for value in (shift, scale * (255 if pixels else 1) + shift))
    return (black, white) if math.isfinite(black) and math.isfinite(white) and black != white else None


@dataclass(frozen=True)
class Source:
    """Float32 arrays as read from one file or folder, before folding.

    ``tensors`` uses TF-Slim's names and shapes (see ``fastmnv2.network.Layer``). A layer comes either with
    ``<scope>/BatchNorm/{gamma,beta,moving_mean,moving_variance}``, or already folded with ``<scope>/biases``.
    """

    form: str  # "hub", "checkpoint", "keras", "tflite", "native" or "untrained"
    origin: str  # path, URL or name, as a bug report should show it
    sha256: str  # of the file the tensors were read from
    tensors: dict[str, NDArray[np.float32]]
    notes: tuple[str, ...] = ()  # what was ignored or assumed, one sentence each
    input_range: tuple[float, float] | None = None  # what black and white become before the network, if it is said
    input_error: str = ""  # why what stands before the network can't be run, if it can't
    head: Head | None = None
    head_error: str = ""  # why what stands behind the pooling can't be run, if it can't

    def __post_init__(self) -> None:
        kept = self.notes[:_NOTES_LIMIT]
        if len(self.notes) > _NOTES_LIMIT:
            kept += (f"{len(self.notes) - _NOTES_LIMIT} more notes",)
        object.__setattr__(self, "notes", tuple(printable(note) for note in kept))
