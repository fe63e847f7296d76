"""Keras files made of standard layers, so that Keras reads them without this package."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fastmnv2 import keras as own
from fastmnv2.weights.forms.keras import CLASSES_MEMBER
from fastmnv2.weights.tensors import Folded, Source


def write(path: Path, source: Source, folded: Folded) -> None:
    """Write ``source`` with its batch norms; see ``fastmnv2.export``."""
    own.plain(source, folded, _head_layers(folded)).save(path)
    if path.suffix.lower() == ".keras" and folded.head is not None and folded.head.classes:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(CLASSES_MEMBER, json.dumps(folded.head.classes))


def _head_layers(folded: Folded) -> list[tuple[Any, list[Any]]]:
    """The layers after the pooling, with their variables."""
    import keras

    if folded.head is None:
        if not folded.has_logits:
            return []
        logits = folded.network.logits
        kernel, bias = folded.tensors[logits.weights_name][0, 0], folded.tensors[logits.biases_name]
        first = 0 if folded.has_background else 1  # weights from Keras have no real background class
        layer = keras.layers.Dense(
            len(bias) - first, activation="softmax", name="Logits" if not first else "predictions"
        )
        return [(layer, [kernel[:, first:], bias[first:]])]
    found: list[tuple[Any, list[Any]]] = []
    for number, step in enumerate(folded.head.steps):
        name = f"head_{number}_{step.kind}"
        if step.kind == "dense":
            kernel, bias = step.tensors["kernel"], step.tensors["bias"]
            found.append((keras.layers.Dense(bias.size, name=name), [kernel, bias]))
        elif step.kind == "affine":
            scale, shift = step.tensors["scale"], step.tensors["shift"]
            norm = keras.layers.BatchNormalization(epsilon=1e-3, name=name)
            # Variance plus epsilon is 0.999 + 0.001, which is exactly 1 in float32.
            found.append((norm, [scale, shift, np.zeros_like(scale), np.full_like(scale, 0.999)]))
        elif step.kind == "unit":
            found.append((keras.layers.UnitNormalization(name=name), []))
        else:
            found.append((keras.layers.Activation(step.kind, name=name), []))
    return found
