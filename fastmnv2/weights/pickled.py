"""Folded weights in a pickle: weights from a native file as its path and digest, other weights in full."""

import dataclasses
import os

from fastmnv2.core.errors import WeightsError
from fastmnv2.weights import read
from fastmnv2.weights.fold import fold
from fastmnv2.weights.tensors import Folded


def pack(folded: Folded) -> tuple[Folded, str]:
    """What to pickle: weights without their tensors and their digest, or complete weights and ""."""
    if folded.file and os.path.isfile(folded.file):
        network = folded.network
        return dataclasses.replace(folded, tensors={}, multiplier=network.multiplier, size=network.size), folded.digest
    return folded, ""


def unpack(folded: Folded, digest: str) -> Folded:
    """The weights that were pickled. Tensors that were left out are read from the file again.

    Raises:
        FileNotFoundError: if the file does not exist.
        WeightsError: if the file is malformed or has changed.
    """
    if not digest:
        return folded
    found = read(folded.file, folded.precision)
    again = found if isinstance(found, Folded) else fold(found)
    if again.digest != digest:
        raise WeightsError(
            f"{folded.file}: the file has changed since the model was pickled: expected tensors with sha256 {digest}, "
            f"got {again.digest}"
        )
    return dataclasses.replace(folded, tensors=again.tensors)
