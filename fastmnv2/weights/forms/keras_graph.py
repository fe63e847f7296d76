"""The layers before and after the network, from the configuration of a Keras model.

The network's own layers are found by name. The graph is followed from the first convolution back to the input, and
from the last activation to the output, through nested models, functional or sequential, as Keras 2 and 3 write them.
Both paths must be a single chain.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.head import Head, Step
from fastmnv2.core.network import of
from fastmnv2.weights.forms.keras_names import BY_TOP, plain_names
from fastmnv2.weights.tensors import range_of

_LAYERS_LIMIT = 2000
_DEPTH_LIMIT = 16
_CALLS_LIMIT = 16
_CHAIN_LIMIT = 200  # layers before the network

UNIT_RESCALING = "rescaling_of_unit_images"
"""This package's name for a Rescaling of images in [0,1]. Other layers' range is inferred from their numbers."""

# Layers without effect at inference.
_IDLE = {
    "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "Identity", "InputLayer",
    "SpatialDropout1D", "SpatialDropout2D",
}  # fmt: skip
_AUGMENTING = ("Random", "AutoContrast", "CutMix", "MixUp", "AugMix", "RandAugment", "Equalization")
_RESIZING = ("Resizing", "CenterCrop")
_ARITHMETIC = {
    "TrueDivide": "/", "Divide": "/", "Multiply": "*", "Subtract": "-", "Add": "+",
    "math.truediv": "/", "math.divide": "/", "math.multiply": "*", "math.subtract": "-", "math.add": "+",
    "__operators__.add": "+",
}  # fmt: skip


class _Refused(Exception):
    """A layer that can't be run; the text names it."""


@dataclass
class _Node:
    """A layer of a configuration, in the tree of nested models."""

    kind: str
    name: str
    config: dict[str, Any]
    parent: "_Node | None"
    inputs: list[str] = field(default_factory=list)  # inputs of its first call
    other_calls: list[list[str]] = field(default_factory=list)  # inputs of each later call
    numbers: list[float] = field(default_factory=list)  # constants among the call's arguments
    number_first: bool = False
    children: "dict[str, _Node]" = field(default_factory=dict)
    last: list[str] = field(default_factory=list)  # names of a model's output layers


class Around(NamedTuple):
    """The layers around the network, from a file.

    Attributes:
        input_range: values of black and white at the network's input; None if the file does not define them.
        input_error: why the layers before the network can't be run, or "".
        steps: functions that make the head's steps; each takes a function that finds a layer's variables by its name.
        head_error: why the layers up to the output can't be run, or "".
        size: height and width of the network's images; None if the file leaves them open.
    """

    input_range: tuple[float, float] | None = None
    input_error: str = ""
    steps: "tuple[Callable[[_Lookup], list[Step]], ...]" = ()
    head_error: str = ""
    size: tuple[int, int] | None = None


_Lookup = Callable[[str], dict[str, NDArray[np.float32]]]


def around(config: Any, size: tuple[int, int] | None) -> Around | None:
    """The layers around the network in a parsed model configuration; None if it contains no graph.

    ``size`` is the network's image size, unless the graph resizes images before the network.

    Raises:
        ValueError: if there are too many layers, or models are nested too deeply.
    """
    if not isinstance(config, dict) or not _layers_of(config):
        return None
    root = _tree(config, None, 0, [0])
    _link(root)
    nodes = _walk(root)
    names = plain_names(node.name for node in nodes)
    found = {names[node.name]: node for node in nodes if node.name in names}
    if "Conv1" not in found or not {"Conv_1_bn"} & found.keys():
        return None
    try:
        input_range, resized = _input_range(found["Conv1"])
        size, input_error = resized or size, ""
    except _Refused as error:
        input_range, input_error = None, str(error)
    try:
        steps, head_error = _head(found["Conv_1_bn"], size), ""
    except _Refused as error:
        steps, head_error = [], str(error)
    return Around(input_range, input_error, tuple(steps), head_error, size)


def head(around: Around, lookup: _Lookup, features: int) -> Head | None:
    """The head that ``around`` describes, for this many features; None if no layers follow the pooling.

    Raises WeightsError, ValueError.
    """
    steps = [step for make in around.steps for step in make(lookup)]
    return Head(tuple(steps), inputs=features) if steps else None


# ---- the configuration as a tree of nodes --------------------------------------------------------------


def _layers_of(entry: dict[str, Any]) -> list[dict[str, Any]]:
    config = entry.get("config")
    layers = config if isinstance(config, list) else config.get("layers") if isinstance(config, dict) else None
    if not isinstance(layers, list):
        return []
    return [layer for layer in layers if isinstance(layer, dict) and isinstance(layer.get("class_name"), str)]


def _tree(entry: dict[str, Any], parent: _Node | None, depth: int, count: list[int]) -> _Node:
    count[0] += 1
    if count[0] > _LAYERS_LIMIT or depth > _DEPTH_LIMIT:
        raise ValueError(f"more than {_LAYERS_LIMIT} layers, or models nested deeper than {_DEPTH_LIMIT}")
    raw = entry.get("config")
    config = raw if isinstance(raw, dict) else {}
    node = _Node(str(entry.get("class_name"))[:100], str(config.get("name") or entry.get("name"))[:200], config, parent)
    calls = entry.get("inbound_nodes")
    if isinstance(calls, list) and calls:
        if len(calls) > _CALLS_LIMIT:
            raise ValueError(f"{node.name}: called {len(calls)} times, expected at most {_CALLS_LIMIT}")
        for call in calls[1:]:
            other = _Node(node.kind, node.name, {}, None)
            _read_call(call, other)
            node.other_calls.append(other.inputs)
        _read_call(calls[0], node)
    wrapped = config.get("layer")
    if isinstance(wrapped, dict):  # a wrapper such as TimeDistributed, which can't be run
        node.kind = f"{node.kind} of a layer"
    for layer in _layers_of(entry):
        child = _tree(layer, node, depth + 1, count)
        node.children[child.name] = child
    outputs = config.get("output_layers")
    if node.children and "output_layers" not in config:
        node.last = [list(node.children)[-1]]
    elif isinstance(outputs, list):
        node.last = [outputs[0]] if outputs and isinstance(outputs[0], str) else _names(outputs)
    return node


def _names(value: Any) -> list[str]:
    """Names in lists of ``["name", 0, 0]``, or in a dict of them."""
    entries = value.values() if isinstance(value, dict) else value
    return [entry[0] for entry in entries if isinstance(entry, list) and entry and isinstance(entry[0], str)]


def _read_call(call: Any, node: _Node) -> None:
    """Inputs and constant numbers of a call, as Keras 3 or Keras 2 writes it."""
    pending = [call]
    while pending:
        value = pending.pop()
        if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
            history = value.get("config", {}).get("keras_history") if isinstance(value.get("config"), dict) else None
            if isinstance(history, list) and history:
                node.inputs.append(str(history[0]))
        elif isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str) and type(value[1]) is int:
            node.inputs.append(value[0])  # Keras 2: [name, node index, tensor index, {arguments}]
            pending += [argument for argument in value[3:4] if isinstance(argument, dict)]
        elif isinstance(value, dict):
            pending += [part for key, part in value.items() if key not in ("training", "mask", "name", "keras_history")]
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            node.numbers.append(float(value))
    node.number_first = bool(node.numbers) and _first_is_number(call)


def _first_is_number(call: Any) -> bool:
    arguments = call.get("args") if isinstance(call, dict) else None
    return isinstance(arguments, list) and bool(arguments) and isinstance(arguments[0], (int, float))


def _link(node: _Node) -> None:
    """Link the layers of sequential models, which don't record inputs: each takes the output of the one before."""
    if node.children and "output_layers" not in node.config:
        before: str | None = None
        for name, child in node.children.items():
            child.inputs = [before] if before is not None else []
            before = name
    for child in node.children.values():
        _link(child)


def _walk(node: _Node) -> list[_Node]:
    found = [node]
    for child in node.children.values():
        found += _walk(child)
    return found


# ---- following the graph -------------------------------------------------------------------------------


def _refuse(node: _Node, why: str) -> _Refused:
    return _Refused(f"the layer {node.name} ({node.kind}) {why}")


def _before(node: _Node) -> list[_Node | None]:
    """The layers whose outputs ``node`` takes, one for each of its calls; None for the model's own input."""
    while not node.inputs or node.kind == "InputLayer":
        if node.parent is None:
            return [None]
        node = node.parent
    found: list[_Node | None] = []
    for inputs in [node.inputs, *node.other_calls]:
        if len(inputs) != 1:
            raise _refuse(node, f"has {len(inputs)} inputs, expected one")
        found.append(_inside(node.parent, inputs[0], node))
    return found


def _inside(parent: _Node | None, name: str, taker: _Node) -> _Node:
    """The layer with this name in ``parent``; if it is a model, that model's last layer."""
    while parent is not None:
        found = parent.children.get(name)
        if found is None:
            raise _refuse(taker, f"takes the output of {name[:100]!r}, which does not exist")
        if not found.children:
            return found
        if len(found.last) != 1:
            raise _refuse(found, f"has {len(found.last)} outputs, expected one")
        parent, name = found, found.last[0]
    raise _refuse(taker, "is outside of any model")


def _after(node: _Node) -> _Node | None:
    """The layer that takes the output of ``node``; None for the model's own output."""
    while node.parent is not None:
        takers = [child for child in node.parent.children.values() if node.name in child.inputs]
        ends = node.name in node.parent.last
        if len(takers) + ends > 1 or (ends and len(node.parent.last) > 1):
            names = ", ".join(child.name for child in takers) or "several outputs"
            raise _refuse(node, f"goes to more than one place ({names}), expected one chain")
        if takers:
            return _entered(takers[0])
        if not ends:
            return None
        node = node.parent
    return None


def _entered(node: _Node) -> _Node:
    """The node itself, or a model's first layer."""
    while node.children:
        first = next(iter(node.children.values()))
        inputs = node.config.get("input_layers")
        if isinstance(inputs, list) and inputs:
            names = [inputs[0]] if isinstance(inputs[0], str) else _names(inputs)
            first = node.children.get(names[0] if names else "", first)
        node = first
    return node


def _chain(start: _Node, follow: Callable[[_Node], _Node | None]) -> list[_Node]:
    found: list[_Node] = []
    node = follow(start)
    while node is not None:
        if len(found) > _LAYERS_LIMIT or any(node is other for other in found[-50:]):
            raise _refuse(node, "is in a circle")
        found.append(node)
        node = follow(node)
    return found


# ---- the input -----------------------------------------------------------------------------------------


class _Preparation(NamedTuple):
    """How images are prepared before a layer."""

    scale: float = 1.0
    shift: float = 0.0
    defined: bool = False  # whether any layer sets scale and shift
    size: tuple[int, int] | None = None  # height and width to which a layer resizes images


def _input_range(first: _Node) -> tuple[tuple[float, float] | None, tuple[int, int] | None]:
    """The network's input range and the size to which images are resized before it; each None if not defined."""
    preparations = _preparations(first, 0)
    if len(preparations) > 1:
        raise _refuse(first, f"gets images that are prepared in {len(preparations)} ways, expected one")
    preparation = preparations.pop()
    if not preparation.defined:
        return None, preparation.size
    scale, shift = preparation.scale, preparation.shift
    unit = any(node.name == UNIT_RESCALING for node in _walk(_root(first)))
    found = range_of(scale, shift, pixels=False if unit else None)
    if found is None:
        raise _refuse(first, f"gets images times {scale} plus {shift}, which leaves no usable picture")
    return found, preparation.size


def _root(node: _Node) -> _Node:
    while node.parent is not None:
        node = node.parent
    return node


def _preparations(node: _Node, depth: int) -> set[_Preparation]:
    """How the images that a layer takes were prepared, for each of its calls."""
    if depth > _CHAIN_LIMIT:
        raise _refuse(node, f"is in a circle, or after more than {_CHAIN_LIMIT} other layers")
    found: set[_Preparation] = set()
    for before in _before(node):
        if before is None:
            found.add(_Preparation())
        else:
            found |= {_applied(before, earlier) for earlier in _preparations(before, depth + 1)}
    return found


def _applied(node: _Node, earlier: _Preparation) -> _Preparation:
    """The preparation of images after a layer, given the preparation ``earlier`` before it."""
    if node.kind in _IDLE or node.kind.startswith(_AUGMENTING) or node.name.endswith("Conv1_pad"):
        return earlier
    if node.kind in _RESIZING:
        height, width = node.config.get("height"), node.config.get("width")
        return earlier._replace(size=(height, width)) if type(height) is type(width) is int else earlier
    factor, offset = _arithmetic(node)
    return earlier._replace(scale=earlier.scale * factor, shift=earlier.shift * factor + offset, defined=True)


def _arithmetic(node: _Node) -> tuple[float, float]:
    """Factor and offset of a layer before the network."""
    if node.kind == "Rescaling":
        return _numbers(node, ("scale", 1.0), ("offset", 0.0))
    if node.kind == "Normalization" and node.config.get("mean") is not None and not node.config.get("invert"):
        mean, variance = _numbers(node, ("mean", 0.0), ("variance", 1.0))
        deviation = max(math.sqrt(max(variance, 0.0)), 1e-7)  # as in Keras
        return 1 / deviation, -mean / deviation
    kind = node.config.get("function") if node.kind in ("TFOpLambda", "SlicingOpLambda") else node.kind
    sign = _ARITHMETIC.get(str(kind))
    if sign is None or len(node.numbers) != 1 or len(node.inputs) != 1:
        raise _refuse(node, "comes before the network and can't be run; pass input_range= to replace it")
    number = node.numbers[0]
    if sign == "/" and (node.number_first or number == 0):
        raise _refuse(node, "divides by the image or by 0")
    if sign == "-":
        return (-1.0, number) if node.number_first else (1.0, -number)
    return {"/": lambda: (1 / number, 0.0), "*": lambda: (number, 0.0), "+": lambda: (1.0, number)}[sign]()


def _numbers(node: _Node, *defaults: tuple[str, float]) -> tuple[float, float]:
    """Two settings of a layer that are numbers, or lists with the same number for every channel."""
    found = [node.config.get(name, default) for name, default in defaults]
    plain = [
        value[0] if isinstance(value, list) and value and value == value[:1] * len(value) else value for value in found
    ]
    if not all(isinstance(value, (int, float)) for value in plain):
        told = ", ".join(str(value)[:60] for value in found)
        raise _refuse(
            node, f"scales channels differently ({told}), which can't be run; pass input_range= to replace it"
        )
    return float(plain[0]), float(plain[1])


# ---- the head ------------------------------------------------------------------------------------------


def _head(last_norm: _Node, size: tuple[int, int] | None) -> list[Callable[[_Lookup], list[Step]]]:
    effective = [node for node in _chain(last_norm, _after) if node.kind not in _IDLE]
    if effective and not _is_relu6(effective[0]):
        raise _refuse(effective[0], f"takes the output of {last_norm.name}; expected ReLU6 between them")
    effective = effective[1:]
    pooled, makers = False, list[Callable[[_Lookup], list[Step]]]()
    for node in effective:
        if not pooled:
            if not _pools(node, size):
                raise _refuse(
                    node,
                    "comes after the last convolution and can't be run; expected the average of the map; "
                    "head=False replaces all layers after the last convolution by the average",
                )
            pooled = True
        elif node.kind in ("GlobalAveragePooling2D", "Flatten") or _only_reshapes(node):
            continue
        elif node.name in BY_TOP and len(effective) <= 4 and node.config.get("units") in (1000, 1001):
            continue  # ImageNet's own classes
        else:
            makers.append(_maker(node))
    return makers


def _is_relu6(node: _Node) -> bool:
    if node.kind == "Activation":
        name = node.config.get("activation")
        return (name.get("config") if isinstance(name, dict) else name) == "relu6"
    return node.kind == "ReLU" and _clamp(node) == (6, 0, 0)


def _clamp(node: _Node) -> tuple[Any, Any, Any]:
    """A ReLU's maximum, slope and threshold."""
    slope, threshold = (node.config.get(name) or 0 for name in ("negative_slope", "threshold"))
    return node.config.get("max_value"), slope, threshold


def _pools(node: _Node, size: tuple[int, int] | None) -> bool:
    """Whether a layer gives the average of the last map. A map of one pixel is its own average."""
    if node.kind == "GlobalAveragePooling2D":
        return True
    try:
        last = of(1.0, *size).head if size is not None else None
    except ValueError:
        return False
    if last is None:
        return False
    if node.kind == "AveragePooling2D":
        pool = node.config.get("pool_size")
        return (list(pool) if isinstance(pool, (list, tuple)) else [pool, pool]) == [last.out_height, last.out_width]
    return last.out_height == last.out_width == 1 and (
        node.kind in ("Flatten", "GlobalMaxPooling2D") or _only_reshapes(node)
    )


def _only_reshapes(node: _Node) -> bool:
    """Whether a layer is a Reshape that leaves the features in one axis."""
    shape = node.config.get("target_shape")
    if node.kind != "Reshape" or not isinstance(shape, (list, tuple)):
        return False
    return shape[-1:] not in ([1], (1,)) and len([edge for edge in shape if edge != 1]) == 1


def _maker(node: _Node) -> Callable[[_Lookup], list[Step]]:
    if node.kind == "Dense":
        after = _activation(node, node.config.get("activation"))
        return lambda lookup: [_dense(node, lookup), *after]
    if node.kind == "BatchNormalization":
        return lambda lookup: [_affine(node, lookup)]
    if node.kind == "Activation":
        steps = _activation(node, node.config.get("activation"))
    elif node.kind == "Softmax" and node.config.get("axis", -1) in (-1, [-1], 1):
        steps = [Step("softmax", node.name)]
    elif node.kind == "UnitNormalization" and node.config.get("axis", -1) in (-1, [-1], 1, [1]):
        steps = [Step("unit", node.name)]
    elif node.kind == "ReLU":
        limit, slope, threshold = _clamp(node)
        if slope or threshold or limit not in (None, 6):
            raise _refuse(node, f"clamps to {limit} with slope {slope} and threshold {threshold}, which can't be run")
        steps = [Step("relu6" if limit else "relu", node.name)]
    else:
        raise _refuse(
            node,
            "comes after the pooling and can't be run; expected Dense, BatchNormalization, "
            "Dropout or an activation; head=False skips all layers after the pooling",
        )
    return lambda _: steps


def _activation(node: _Node, name: Any) -> list[Step]:
    if isinstance(name, dict):  # {"class_name": "function", "config": "relu"}
        name = name.get("config")
    if name in (None, "linear"):
        return []
    if name not in ("relu", "relu6", "sigmoid", "softmax"):
        raise _refuse(
            node,
            f"has the activation {str(name)[:60]!r}, which can't be run; "
            "expected linear, relu, relu6, sigmoid or softmax; head=False skips all layers after the pooling",
        )
    return [Step(str(name), node.name)]


def _dense(node: _Node, lookup: _Lookup) -> Step:
    found = lookup(node.name)
    kernel = _variable(found, node, "kernel", 0)
    if node.config.get("use_bias", True):
        bias = _variable(found, node, "bias", 1)
    else:
        bias = np.zeros(kernel.shape[-1:], np.float32)
    return Step("dense", node.name, {"kernel": kernel, "bias": bias})


def _affine(node: _Node, lookup: _Lookup) -> Step:
    found, order = lookup(node.name), iter(range(4))
    epsilon = node.config.get("epsilon", 1e-3)
    axis = node.config.get("axis", -1)
    if not isinstance(epsilon, (int, float)) or axis not in (-1, [-1], 1, [1]):
        raise ValueError(f"{node.name}: expected a number as epsilon and the last axis, got {epsilon!r} and {axis!r}")
    parts = [("gamma", node.config.get("scale", True)), ("beta", node.config.get("center", True))]
    values = {name: _variable(found, node, name, next(order)) for name, exists in parts if exists}
    mean, variance = (_variable(found, node, name, next(order)) for name in ("moving_mean", "moving_variance"))
    if variance.size and variance.min() + epsilon <= 0:
        raise ValueError(f"{node.name}: expected a variance above 0, got {variance.min()}")
    scale = np.asarray(values.get("gamma", 1), np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    shift = values.get("beta", 0) - mean.astype(np.float64) * scale
    return Step("affine", node.name, {"scale": scale.astype(np.float32), "shift": shift.astype(np.float32)})


def _variable(found: dict[str, NDArray[np.float32]], node: _Node, name: str, index: int) -> NDArray[np.float32]:
    """A variable by its name, or by its number in a Keras 3 file."""
    value = found.get(name, found.get(str(index)))
    if value is None:
        raise ValueError(f"the layer {node.name} ({node.kind}): expected one {name} in the file, got none or several")
    return value
