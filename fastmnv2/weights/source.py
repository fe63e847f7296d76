"""What every weights reader returns: named arrays, and where they came from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


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


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    import hashlib  # here, for it takes OpenSSL 5 ms to load, and the native form does not need it

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
