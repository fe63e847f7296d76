"""ONNX files, built node by node with onnx's own helpers."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper, save

from fastmnv2 import _version
from fastmnv2.core.network import Layer
from fastmnv2.weights.tensors import Folded, Source

_OPSET, _IR = 17, 9  # versions of 2022, which every later runtime reads


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def constant(self, name: str, values: Any) -> str:
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output


def write(path: Path, _source: Source, folded: Folded) -> None:
    """Write ``folded``; see ``fastmnv2.export``."""
    graph, network = _Graph(), folded.network
    features = _network(graph, folded)
    outputs = [("features", network.features)]
    if folded.head is not None:
        x = features
        for number, step in enumerate(folded.head.steps):
            tensors = [graph.constant(f"head/{number}/{name}", values) for name, values in step.tensors.items()]
            x = _head_step(graph, step.kind, x, tensors, f"head/{number}")
        graph.add("Identity", [x], "predictions")
        outputs.append(("predictions", folded.head.outputs))
    elif folded.has_logits:
        layer = network.logits
        kernel = graph.constant(layer.weights_name, folded.tensors[layer.weights_name][0, 0])
        bias = graph.constant(layer.biases_name, folded.tensors[layer.biases_name])
        graph.add("Gemm", [features, kernel, bias], "logits")
        outputs.append(("logits", network.classes))

    def values(name: str, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])

    made = helper.make_graph(
        graph.nodes,
        network.name,
        [values("images", *network.image_shape)],
        [values(*o) for o in outputs],
        graph.tensors,
    )
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="fastmnv2",
        producer_version=_version.__version__,
    )
    checker.check_model(model, full_check=True)
    save(model, str(path))


def _network(graph: _Graph, folded: Folded) -> str:
    black, white = folded.range
    span, start = graph.constant("span", np.float32(white - black)), graph.constant("black", np.float32(black))
    zero, six = graph.constant("zero", np.float32(0)), graph.constant("six", np.float32(6))
    x = graph.add("Mul", ["images", span], "scaled")
    x = graph.add("Add", [x, start], "shifted")
    x = shortcut = graph.add("Transpose", [x], "channels_first", perm=[0, 3, 1, 2])
    for layer in folded.network.layers[:-1]:
        if layer.takes_block_input:
            shortcut = x
        kernel = graph.constant(layer.weights_name, _oihw(layer, folded.tensors[layer.weights_name]))
        bias = graph.constant(layer.biases_name, folded.tensors[layer.biases_name])
        (above, below), (left, right) = layer.padding
        x = graph.add(
            "Conv",
            [x, kernel, bias],
            layer.scope,
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            pads=[above, left, below, right],
            group=layer.in_channels if layer.kind == "depthwise" else 1,
        )
        if layer.relu6:
            x = graph.add("Clip", [x, zero, six], f"{layer.scope}/relu6")
        if layer.residual:
            x = graph.add("Add", [shortcut, x], f"{layer.scope}/sum")
    pooled = graph.add("GlobalAveragePool", [x], "pooled")
    return graph.add("Flatten", [pooled], "features")


def _oihw(layer: Layer, kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    if layer.kind == "depthwise":
        kernel = kernel.transpose(0, 1, 3, 2)
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))


def _head_step(graph: _Graph, kind: str, x: str, tensors: list[str], name: str) -> str:
    if kind == "dense":
        return graph.add("Gemm", [x, *tensors], name)
    if kind == "affine":
        scaled = graph.add("Mul", [x, tensors[0]], f"{name}/scaled")
        return graph.add("Add", [scaled, tensors[1]], name)
    if kind == "unit":  # divided by the length, with a minimum that keeps vectors of zeros finite
        squares = graph.add("ReduceSumSquare", [x], f"{name}/squares", axes=[-1], keepdims=1)
        minimum = graph.constant(f"{name}/minimum", np.float32(1e-12))
        length = graph.add("Sqrt", [graph.add("Max", [squares, minimum], f"{name}/clamped")], f"{name}/length")
        return graph.add("Div", [x, length], name)
    if kind == "relu6":
        return graph.add("Clip", [x, "zero", "six"], name)
    operator = {"relu": "Relu", "sigmoid": "Sigmoid", "softmax": "Softmax"}[kind]
    return graph.add(operator, [x], name, **({"axis": -1} if kind == "softmax" else {}))
