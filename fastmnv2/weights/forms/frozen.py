"""Frozen graphs (``*_frozen.pb``), as in TF-Slim's releases: a GraphDef whose variables have become constants."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import WeightsError
from fastmnv2.weights.files import file_sha256, read_file
from fastmnv2.weights.forms import keras_names, tf_graph
from fastmnv2.weights.forms.slim_names import slim_name
from fastmnv2.weights.tensors import Source

_LIMIT = 96 << 20
_VALUES_LIMIT = 16 << 20  # values in all constants that are read


def read(path: Path) -> Source:
    """Read a frozen graph with TF-Slim's or Keras' names. Raises WeightsError, or ValueError if it is malformed."""
    graph = tf_graph.Graph(tf_graph.Reader(), read_file(path, _LIMIT))
    constants = graph.constants()
    slim = {name: plain for name in constants if (plain := slim_name(name))}
    left = _VALUES_LIMIT

    def values(name: str) -> NDArray[np.float32]:
        nonlocal left
        found: NDArray[Any] | None = graph.values(constants[name])
        if found is None or found.dtype.kind != "f":
            raise WeightsError(f"{path}: {name}: expected a constant of floats")
        left -= math.prod(found.shape)
        if left < 0:
            raise WeightsError(f"{path}: {name}: expected at most {_VALUES_LIMIT} values in the constants, got more")
        return np.ascontiguousarray(found, np.float32)

    notes: list[str] = []
    if slim:
        tensors = {plain: values(name) for name, plain in slim.items()}
    else:
        variables = keras_names.plain_paths(constants).items()
        used = [(plain, values(name)) for plain, name in variables if keras_names.is_variable(plain)]
        tensors, notes = keras_names.from_variables(used, str(path))
    before = tf_graph.Before()
    for name in graph.placeholders():
        before = graph.before(name) or before
    return Source(
        "frozen",
        str(path),
        file_sha256(path),
        tensors,
        ("a frozen graph", *notes),
        input_range=before.input_range,
        input_error=before.input_error,
        size=before.size,
    )
