"""Map Keras' names of the network's layers and variables to TF-Slim's.

There are two generations of layer names: those in the official files of 2018 (``mobl3_conv_3_expand``), and the current
ones (``block_3_expand``).
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import WeightsError
from fastmnv2.core.network import BATCH_NORM, DEFAULT, Layer, Shapes, nearest_multiplier, of, shapes
from fastmnv2.weights.tensors import NO_BACKGROUND

_PATTERNS = (
    (r"Conv1|bn_Conv1", "Conv"),
    (r"Conv_1|Conv_1_bn", "Conv_1"),
    (r"expanded_conv_(?P<part>depthwise|project)(_BN)?", "expanded_conv/{part}"),
    (r"block_(?P<number>\d+)_(?P<part>expand|depthwise|project)(_BN)?", "expanded_conv_{number}/{part}"),
    (r"mobl(?P<number>\d+)_conv_\d+_(?P<part>expand|depthwise|project)", "expanded_conv_{number}/{part}"),
    (r"bn(?P<number>\d+)_conv_\d+_bn_(?P<part>expand|depthwise|project)", "expanded_conv_{number}/{part}"),
)
_BY_SCOPE = {layer.scope: layer for layer in DEFAULT.layers}  # for names and kinds, which all networks share
_LAYERS_LIMIT = 2000
BY_TOP = ("predictions", "Logits")


def slim_scope(layer: str) -> str | None:
    """TF-Slim's scope of a Keras layer, by either generation's name."""
    for pattern, scope in _PATTERNS:
        if found := re.fullmatch(pattern, layer):
            name = "MobilenetV2/" + scope.format(**found.groupdict())
            return name.replace("expanded_conv_0/", "expanded_conv/")
    return None


def layer_of(layer: str) -> Layer | None:
    """The network's layer with this Keras name; None if the network has no such layer."""
    return _BY_SCOPE.get(slim_scope(layer) or "")


def prefix_of(layers: Iterable[str]) -> str:
    """The common prefix of the network's layer names, such as "left_"; "" if there is no prefix or no network.

    Raises:
        ValueError: if there are two networks, with different prefixes.
    """
    names = {layer for layer in layers if layer.endswith(("Conv1", "Conv_1_bn"))}
    found = {name.removesuffix("bn_Conv1") for name in names if name.endswith("bn_Conv1")}
    found = {prefix for prefix in found if {prefix + "Conv1", prefix + "Conv_1_bn"} <= names}
    if len(found) > 1:
        shown = ", ".join(repr(prefix[:60]) for prefix in sorted(found)[:4])
        raise ValueError(f"the file holds {len(found)} networks, with layers named by {shown}; expected one")
    return next(iter(found), "")


def plain_names(layers: Iterable[str]) -> dict[str, str]:
    """Map a model's names of the network's layers (with a prefix, or such as ``conv2d_7``) to Keras' own names."""
    names = list(layers)
    prefix = prefix_of(names)
    plain = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    found = {name: short for name, short in plain.items() if slim_scope(short)}
    return found or by_order(names)


def plain_paths(paths: Iterable[str]) -> dict[str, str]:
    """Map variables' paths, with the prefix of the layer's name removed, to the original ``…/<layer>/<variable>``."""
    originals = list(paths)
    prefix = prefix_of({_layer_of(path) for path in originals})
    if not prefix:
        return {path: path for path in originals}
    found = {}
    for path in originals:
        layer = _layer_of(path)
        if layer.startswith(prefix) and slim_scope(layer.removeprefix(prefix)):
            found[f"{layer.removeprefix(prefix)}/{path.rpartition('/')[2]}"] = path
        else:
            found[path] = path
    return found


def _layer_of(path: str) -> str:
    return path.rpartition("/")[0].rpartition("/")[2]


def _slim_name(path: str) -> str | None:
    """TF-Slim's name of ``…/<layer>/<variable>``; None if the layer is not the network's."""
    layer, _, variable = path.removesuffix(":0").rpartition("/")
    scope = slim_scope(layer.rpartition("/")[2])
    if scope not in _BY_SCOPE:
        return None
    if variable in ("kernel", "depthwise_kernel"):
        return _BY_SCOPE[scope].weights_name
    return f"{scope}/BatchNorm/{variable}" if variable in BATCH_NORM else None


def is_top(path: str) -> bool:
    """Whether a path names a variable of the classification layer."""
    parts = path.removesuffix(":0").split("/")
    return len(parts) >= 2 and parts[-2] in BY_TOP and parts[-1] in ("kernel", "bias")


def is_variable(path: str) -> bool:
    """Whether the network can use the Keras variable ``…/<layer>/<variable>``."""
    return _slim_name(path) is not None or is_top(path)


def expected_shapes(found: Shapes) -> Shapes:
    """Expected shapes of a file's variables by path, without those of the classification layer.

    The expected network is the one that agrees with most of the file's channel counts.
    """
    names = {path: name for path in found if (name := _slim_name(path))}
    by_name = {names[path]: found[path] for path in names}
    layers = DEFAULT.layers
    kernels = [by_name.get(layer.weights_name, ()) for layer in (layers[0], *layers[2:-2:3], DEFAULT.head)]
    multiplier = nearest_multiplier([shape[-1] if len(shape) == 4 else None for shape in kernels])
    table = shapes(of(multiplier, *DEFAULT.size).layers[:-1], folded=False)
    return {path: table[name] for path, name in names.items()}


def from_variables(
    variables: Iterable[tuple[str, NDArray[Any]]], origin: str
) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """Keras variables ``(…/<layer>/<variable>, array)`` as TF-Slim's tensors, and notes on the rest."""
    tensors: dict[str, NDArray[np.float32]] = {}
    top: dict[str, NDArray[np.float32]] = {}
    for path, array in variables:
        values = np.ascontiguousarray(array, np.float32)
        name = _slim_name(path)
        if name is None:
            top[path.removesuffix(":0").rpartition("/")[2]] = values
        elif name in tensors and not np.array_equal(tensors[name], values):  # some exports list variables twice
            raise WeightsError(f"{origin}: {path}: a second tensor for {name}; expected one MobileNetV2")
        else:
            tensors[name] = values
    return tensors, _add_top(tensors, top)


def _add_top(tensors: dict[str, NDArray[np.float32]], top: dict[str, NDArray[np.float32]]) -> list[str]:
    if not top:
        return []
    kernel, bias = top.get("kernel"), top.get("bias")
    last, classes = tensors.get(DEFAULT.head.weights_name), DEFAULT.classes
    features = last.shape[-1] if last is not None else 0
    if kernel is None or bias is None or kernel.shape != (features, bias.size) or bias.size not in (1000, 1001):
        return []  # the user's own head
    note = []
    if bias.size == classes - 1:
        # Keras left out class 0, background. With this logit its probability is 0 and the others are Keras'.
        kernel = np.concatenate([np.zeros((features, 1), np.float32), kernel], axis=1)
        bias = np.concatenate([np.full(1, NO_BACKGROUND, np.float32), bias])
        note = [f"the classification layer has no background class: its logit is set to {NO_BACKGROUND:g}"]
    tensors[DEFAULT.logits.weights_name] = np.ascontiguousarray(kernel.reshape(1, 1, features, classes))
    tensors[DEFAULT.logits.biases_name] = bias
    return note


_KINDS = re.compile(r"(conv2d|depthwise_conv2d|batch_normalization)(?:_(\d{1,9}))?")


def by_order(groups: Iterable[str]) -> dict[str, str]:
    """Map layers with names such as ``conv2d_7`` to Keras' names, in the order of each kind's numbers.

    Empty if there are too few for the network. Surplus layers of a kind come after the network and are ignored.
    """
    numbered: dict[str, list[tuple[int, str]]] = {"conv2d": [], "depthwise_conv2d": [], "batch_normalization": []}
    for group in groups:
        if found := _KINDS.fullmatch(group):
            numbered[found[1]].append((int(found[2] or 0), group))
    mapped: dict[str, str] = {}
    for kind, entries in numbered.items():
        layers = [
            layer
            for layer in DEFAULT.layers[:-1]
            if kind == "batch_normalization" or (layer.kind == "depthwise") == (kind == "depthwise_conv2d")
        ]
        if len(entries) < len(layers):
            return {}
        for layer, (_, group) in zip(layers, sorted(entries), strict=False):
            mapped[group] = _keras_name(layer, norm=kind == "batch_normalization")
    return mapped


def _keras_name(layer: Layer, *, norm: bool) -> str:
    scope = layer.scope.removeprefix("MobilenetV2/")
    if scope in ("Conv", "Conv_1"):
        plain = {"Conv": "Conv1", "Conv_1": "Conv_1"}[scope]
        return {"Conv1": "bn_Conv1", "Conv_1": "Conv_1_bn"}[plain] if norm else plain
    plain = re.sub(r"expanded_conv_(\d+)/", r"block_\1_", scope).replace("expanded_conv/", "expanded_conv_")
    return f"{plain}_BN" if norm else plain


def saved_paths(config: Any) -> dict[str, str]:
    """Names of a configuration's layers, by the paths at which Keras 2 and early Keras 3 save them: ``layers/dense_1``.

    The number counts the layers of one class within a model.
    """
    found: dict[str, str] = {}
    pending = [(config, "")]
    while pending:
        entry, path = pending.pop()
        inner = entry.get("config") if isinstance(entry, dict) else None
        layers = inner.get("layers") if isinstance(inner, dict) else None
        counts: dict[str, int] = {}
        for layer in layers if isinstance(layers, list) else ():
            if len(found) > _LAYERS_LIMIT or path.count("/") > 32 or not isinstance(layer, dict):
                return found
            kind = re.sub(r"\W+", "", str(layer.get("class_name"))[:100].rpartition(">")[2])
            kind = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", kind)  # as Keras makes snake_case
            kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()
            counts[kind] = counts.get(kind, -1) + 1
            place = f"{path}layers/{kind}" + (f"_{counts[kind]}" if counts[kind] else "")
            own = layer.get("config")
            found[place] = str(own.get("name") if isinstance(own, dict) else "")[:200]
            pending.append((layer, f"{place}/"))
    return found
