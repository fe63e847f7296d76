"""Pickle folded weights: those from a native file as the file's path and digest, all others in full."""

import dataclasses
import os

from fastmnv2.core.errors import WeightsError
from fastmnv2.weights import read
from fastmnv2.weights.fold import fold
from fastmnv2.weights.tensors import Folded


def pack(folded: Folded) -> tuple[Folded, str]:
    """The objects to pickle: weights without tensors, and their digest; or complete weights, and ""."""
    if folded.file and os.path.isfile(folded.file):
        network = folded.network
        return dataclasses.replace(folded, tensors={}, multiplier=network.multiplier, size=network.size), folded.digest
    return folded, ""


def unpack(folded: Folded, digest: str) -> Folded:
    """The weights that were pickled. Tensors that are not in the pickle are read from the file.

    Raises:
        FileNotFoundError: if the file does not exist.
        WeightsError: if the file is malformed or has changed.
    """
    if not digest:
        return folded
    found = read(folded.file, folded.precision)
    current = found if isinstance(found, Folded) else fold(found)
    if current.digest != digest:
        raise WeightsError(
            f"{folded.file}: the file has changed since the model was pickled: expected tensors with sha256 {digest}, "
            f"got {current.digest}"
        )
    return dataclasses.replace(folded, tensors=current.tensors)
