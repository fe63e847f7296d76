"""TensorFlow 2's bundles, whose keys are object paths; the object graph maps these to the variables' names."""

from fastmnv2.weights.forms import bundle, keras_names
from fastmnv2.weights.forms.slim_names import slim_name
from fastmnv2.weights.tensors import Source, is_range

KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""The object graph's key in a bundle."""

_VARIABLES_LIMIT = 20_000

RANGE_VARIABLE = "fastmnv2/input_range"
"""The variable with the input range in SavedModels that this package writes: the values of black and white."""


def read(opened: bundle.Bundle, form: str, origin: str) -> Source:
    """Read a TensorFlow 2 bundle: a SavedModel's, or one from Keras 2's ``save_weights``."""
    names = _variable_names(opened.string(KEY))  # key in the bundle: the variable's own name
    names = {key: name for key, name in names.items() if key in opened.entries and "/.OPTIMIZER_SLOT/" not in key}
    slim = {key: plain for key, name in names.items() if (plain := slim_name(name))}
    notes: list[str] = []
    if slim:
        tensors = {slim[key]: array for key, array in opened.tensors(slim).items()}
    else:
        keys = {name: key for key, name in reversed(names.items())}
        plain_of = {keys[name]: plain for plain, name in keras_names.plain_paths(keys).items()}
        plain_of |= {key: name for key, name in names.items() if key not in plain_of}
        arrays = opened.tensors(key for key, name in plain_of.items() if keras_names.is_variable(name))
        tensors, notes = keras_names.from_variables(((plain_of[key], array) for key, array in arrays.items()), origin)
    keys_of_range = [key for key, name in names.items() if name == RANGE_VARIABLE and opened.entries[key].shape == (2,)]
    edges = opened.tensors(keys_of_range[:1]).get(keys_of_range[0]) if keys_of_range else None
    input_range = (float(edges[0]), float(edges[1])) if edges is not None and is_range(*edges.tolist()) else None
    kind = "a TF2 SavedModel" if form == "hub" else "variables by TensorFlow 2's object graph"
    return Source(form, origin, opened.sha256(), tensors, (kind, *notes), input_range=input_range)


def _variable_names(graph: bytes) -> dict[str, str]:
    """Variable names by checkpoint key: TrackableObjectGraph.nodes[].attributes[] (trackable_object_graph.proto)."""
    names: dict[str, str] = {}
    for number, node in bundle.fields(graph):
        if number != 1 or not isinstance(node, bytes):
            continue
        for part, attribute in bundle.fields(node):
            if part != 2 or not isinstance(attribute, bytes):
                continue
            found = {field: value for field, value in bundle.fields(attribute) if isinstance(value, bytes)}
            if len(names) == _VARIABLES_LIMIT:
                raise ValueError(f"the object graph has more than {_VARIABLES_LIMIT} variables")
            if 2 in found and 3 in found:
                names[found[3].decode()] = found[2].decode()
    return names
