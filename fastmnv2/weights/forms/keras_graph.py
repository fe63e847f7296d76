"""The layers before and after the network, from the configuration of a Keras model.

The network's own layers are found by name. The graph is followed from the first convolution back to the input, and
from the last activation to the output, through nested models (``keras_nodes``). Both paths must be a single chain.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.head import Head, Step
from fastmnv2.core.network import of
from fastmnv2.weights.forms.keras_names import BY_TOP, plain_names
from fastmnv2.weights.forms.keras_nodes import (
    Node,
    Refused,
    chain,
    layer_after,
    layers_before,
    layers_of,
    refuse,
    tree,
    walk,
)
from fastmnv2.weights.tensors import range_of

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
    if not isinstance(config, dict) or not layers_of(config):
        return None
    nodes = walk(tree(config))
    names = plain_names(node.name for node in nodes)
    found = {names[node.name]: node for node in nodes if node.name in names}
    if "Conv1" not in found or not {"Conv_1_bn"} & found.keys():
        return None
    try:
        input_range, resized = _input_range(found["Conv1"])
        size, input_error = resized or size, ""
    except Refused as error:
        input_range, input_error = None, str(error)
    try:
        steps, head_error = _head(found["Conv_1_bn"], size), ""
    except Refused as error:
        steps, head_error = [], str(error)
    return Around(input_range, input_error, tuple(steps), head_error, size)


def head(around: Around, lookup: _Lookup, features: int) -> Head | None:
    """The head that ``around`` describes, for this many features; None if no layers follow the pooling.

    Raises WeightsError, ValueError.
    """
    steps = [step for make in around.steps for step in make(lookup)]
    return Head(tuple(steps), inputs=features) if steps else None


# ---- the input -----------------------------------------------------------------------------------------


class _Preparation(NamedTuple):
    """How images are prepared before a layer."""

    scale: float = 1.0
    shift: float = 0.0
    defined: bool = False  # whether any layer sets scale and shift
    size: tuple[int, int] | None = None  # height and width to which a layer resizes images


def _input_range(first: Node) -> tuple[tuple[float, float] | None, tuple[int, int] | None]:
    """The network's input range and the size to which images are resized before it; each None if not defined."""
    preparations = _preparations(first, 0)
    if len(preparations) > 1:
        raise refuse(first, f"gets images that are prepared in {len(preparations)} ways, expected one")
    preparation = preparations.pop()
    if not preparation.defined:
        return None, preparation.size
    scale, shift = preparation.scale, preparation.shift
    unit = any(node.name == UNIT_RESCALING for node in walk(_root(first)))
    found = range_of(scale, shift, pixels=False if unit else None)
    if found is None:
        raise refuse(first, f"gets images times {scale} plus {shift}, which leaves no usable picture")
    return found, preparation.size


def _root(node: Node) -> Node:
    while node.parent is not None:
        node = node.parent
    return node


def _preparations(node: Node, depth: int) -> set[_Preparation]:
    """How the images that a layer takes were prepared, for each of its calls."""
    if depth > _CHAIN_LIMIT:
        raise refuse(node, f"is in a circle, or after more than {_CHAIN_LIMIT} other layers")
    found: set[_Preparation] = set()
    for before in layers_before(node):
        if before is None:
            found.add(_Preparation())
        else:
            found |= {_applied(before, earlier) for earlier in _preparations(before, depth + 1)}
    return found


def _applied(node: Node, earlier: _Preparation) -> _Preparation:
    """The preparation of images after a layer, given the preparation ``earlier`` before it."""
    if node.kind in _IDLE or node.kind.startswith(_AUGMENTING) or node.name.endswith("Conv1_pad"):
        return earlier
    if node.kind in _RESIZING:
        height, width = node.config.get("height"), node.config.get("width")
        return earlier._replace(size=(height, width)) if type(height) is type(width) is int else earlier
    factor, offset = _arithmetic(node)
    return earlier._replace(scale=earlier.scale * factor, shift=earlier.shift * factor + offset, defined=True)


def _arithmetic(node: Node) -> tuple[float, float]:
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
        raise refuse(node, "comes before the network and can't be run; pass input_range= to replace it")
    number = node.numbers[0]
    if sign == "/" and (node.number_first or number == 0):
        raise refuse(node, "divides by the image or by 0")
    if sign == "-":
        return (-1.0, number) if node.number_first else (1.0, -number)
    return {"/": lambda: (1 / number, 0.0), "*": lambda: (number, 0.0), "+": lambda: (1.0, number)}[sign]()


def _numbers(node: Node, *defaults: tuple[str, float]) -> tuple[float, float]:
    """Two settings of a layer that are numbers, or lists with the same number for every channel."""
    found = [node.config.get(name, default) for name, default in defaults]
    plain = [
        value[0] if isinstance(value, list) and value and value == value[:1] * len(value) else value for value in found
    ]
    if not all(isinstance(value, (int, float)) for value in plain):
        told = ", ".join(str(value)[:60] for value in found)
        raise refuse(node, f"scales channels differently ({told}), which can't be run; pass input_range= to replace it")
    return float(plain[0]), float(plain[1])


# ---- the head ------------------------------------------------------------------------------------------


def _head(last_norm: Node, size: tuple[int, int] | None) -> list[Callable[[_Lookup], list[Step]]]:
    effective = [node for node in chain(last_norm, layer_after) if node.kind not in _IDLE]
    if effective and not _is_relu6(effective[0]):
        raise refuse(effective[0], f"takes the output of {last_norm.name}; expected ReLU6 between them")
    effective = effective[1:]
    pooled, makers = False, list[Callable[[_Lookup], list[Step]]]()
    for node in effective:
        if not pooled:
            if not _pools(node, size):
                raise refuse(
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


def _is_relu6(node: Node) -> bool:
    if node.kind == "Activation":
        name = node.config.get("activation")
        return (name.get("config") if isinstance(name, dict) else name) == "relu6"
    return node.kind == "ReLU" and _clamp(node) == (6, 0, 0)


def _clamp(node: Node) -> tuple[Any, Any, Any]:
    """A ReLU's maximum, slope and threshold."""
    slope, threshold = (node.config.get(name) or 0 for name in ("negative_slope", "threshold"))
    return node.config.get("max_value"), slope, threshold


def _pools(node: Node, size: tuple[int, int] | None) -> bool:
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


def _only_reshapes(node: Node) -> bool:
    """Whether a layer is a Reshape that leaves the features in one axis."""
    shape = node.config.get("target_shape")
    if node.kind != "Reshape" or not isinstance(shape, (list, tuple)):
        return False
    return shape[-1:] not in ([1], (1,)) and len([edge for edge in shape if edge != 1]) == 1


def _maker(node: Node) -> Callable[[_Lookup], list[Step]]:
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
            raise refuse(node, f"clamps to {limit} with slope {slope} and threshold {threshold}, which can't be run")
        steps = [Step("relu6" if limit else "relu", node.name)]
    else:
        raise refuse(
            node,
            "comes after the pooling and can't be run; expected Dense, BatchNormalization, "
            "Dropout or an activation; head=False skips all layers after the pooling",
        )
    return lambda _: steps


def _activation(node: Node, name: Any) -> list[Step]:
    if isinstance(name, dict):  # {"class_name": "function", "config": "relu"}
        name = name.get("config")
    if name in (None, "linear"):
        return []
    if name not in ("relu", "relu6", "sigmoid", "softmax"):
        raise refuse(
            node,
            f"has the activation {str(name)[:60]!r}, which can't be run; "
            "expected linear, relu, relu6, sigmoid or softmax; head=False skips all layers after the pooling",
        )
    return [Step(str(name), node.name)]


def _dense(node: Node, lookup: _Lookup) -> Step:
    found = lookup(node.name)
    kernel = _variable(found, node, "kernel", 0)
    if node.config.get("use_bias", True):
        bias = _variable(found, node, "bias", 1)
    else:
        bias = np.zeros(kernel.shape[-1:], np.float32)
    return Step("dense", node.name, {"kernel": kernel, "bias": bias})


def _affine(node: Node, lookup: _Lookup) -> Step:
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


def _variable(found: dict[str, NDArray[np.float32]], node: Node, name: str, index: int) -> NDArray[np.float32]:
    """A variable by its name, or by its number in a Keras 3 file."""
    value = found.get(name, found.get(str(index)))
    if value is None:
        raise ValueError(f"the layer {node.name} ({node.kind}): expected one {name} in the file, got none or several")
    return value
