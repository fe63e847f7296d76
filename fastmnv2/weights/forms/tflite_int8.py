"""8-bit TFLite files, not dequantised: uint8 with one scale per tensor, int8 with one per channel.

The operators are followed as in ``tflite``. In addition, this module stores how every activation is quantised.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.network import Layer
from fastmnv2.weights.files import read_file
from fastmnv2.weights.forms.tflite import RELU6, Value, Walk, stored_shape
from fastmnv2.weights.forms.tflite_graph import FILE_LIMIT, TYPES, Graph, Operator, Tensor, type_name
from fastmnv2.weights.int8.quantised import IMAGE, POOL, SOFTMAX, Quantised, quantity_names, sum_scope, weights_names

_AVERAGES = {"u1": "AVERAGE_POOL_2D", "i1": "MEAN"}  # other operators round differently


def read(path: Path) -> Quantised:
    """Read a ``.tflite`` file with 8-bit activations and weights. Raises WeightsError for any other file."""
    graph = Graph(read_file(path, FILE_LIMIT), str(path))
    walk = _Int8Walk(graph)
    for number, operator in enumerate(graph.operators):
        walk.step(number, operator)
    return walk.source(path, Quantised)


class _Int8Walk(Walk):
    """Collects each layer's integers and how its output is quantised."""

    _type = ""  # the type of all activations, set by the first: "u1" or "i1"

    def step(self, number: int, operator: Operator) -> bool:
        before = self._values.get(operator.inputs[0]) if operator.inputs else None
        if not super().step(number, operator):
            return False
        if before is None or not operator.outputs:
            return True
        source, target = (self.graph.tensors[index] for index in (operator.inputs[0], operator.outputs[0]))
        if operator.name in ("MEAN", "AVERAGE_POOL_2D"):
            if operator.name != _AVERAGES.get(self._type_of(target)):
                raise self._error(f"expected {_AVERAGES.get(self._type, 'an average of bytes')}")
            self._keep(POOL, target)
        elif operator.name == "QUANTIZE" and not (before.pooled or before.layer == len(self.network.layers) - 1):
            self._quantise(before, source, target)
        elif operator.name in ("RESHAPE", "SQUEEZE", "PAD") and self._type_of(source):
            if (*source.scale, *source.zero_point) != (*target.scale, *target.zero_point):
                raise self._error("expected the same scale and zero point before and after")
            if self._values[operator.outputs[0]].pooled and not before.pooled:
                self._keep(POOL, target)
        elif operator.name == "SOFTMAX" and self._type_of(target) == "u1":
            if target.scale.tolist() != [1 / 256] or target.zero_point.tolist() != [0]:
                raise self._error("expected a scale of 1/256 and a zero point of 0")
            self._keep(SOFTMAX, target)
        elif operator.name == "RELU6":
            raise self._error("expected RELU6 to be fused into the convolution")
        return True

    def _quantise(self, before: Value, source: Tensor, target: Tensor) -> None:
        """Handle a QUANTIZE of the image: from float32, or from uint8 to int8 with the same meaning."""
        moved = (TYPES.get(source.type), TYPES.get(target.type)) == ("u1", "i1") and source.scale.size == 1
        if moved:
            moved = source.scale.tolist() == target.scale.tolist()
            moved = moved and (source.zero_point - 128).tolist() == target.zero_point.tolist()
        if before.layer != -1 or not (moved or TYPES.get(source.type) == "<f4"):
            raise self._error("expected a QUANTIZE of the image only, from float32, or from uint8 to the same in int8")
        self._keep(IMAGE, target)

    def _type_of(self, tensor: Tensor) -> str:
        found = TYPES.get(tensor.type, "")
        return found if found in _AVERAGES else ""

    def _keep(self, scope: str, tensor: Tensor, activation: int = 0) -> None:
        """Store how an activation is quantised, and the range that a fused activation allows."""
        found = self._type_of(tensor)
        self._type = self._type or found
        if not found or found != self._type:
            raise self._error(
                f"tensor {tensor.name}: expected 8-bit activations of one type throughout, got "
                f"{type_name(tensor.type)}; `fastmnv2 quantize` makes an 8-bit network from float weights"
            )
        if tensor.scale.size != 1 or tensor.zero_point.size != 1:
            raise self._error(
                f"tensor {tensor.name}: expected one scale and one zero point, got {tensor.scale.size} and "
                f"{tensor.zero_point.size}"
            )
        low = int(np.iinfo(found).min)
        high, zero = low + 255, int(tensor.zero_point[0])
        scale = np.float32(tensor.scale[0])
        if activation == RELU6 and np.isfinite(scale) and scale > 0:  # later checks report other scales
            with np.errstate(all="ignore"):
                six = float(np.float32(6) / scale)
            low, high = max(low, zero), min(high, zero + math.floor(six + 0.5) if six < 1e6 else high)
        if not -(2**31) <= zero < 2**31:
            raise self._error(f"tensor {tensor.name}: expected a zero point of 8 bits, got {zero}")
        names = quantity_names(scope)
        self._tensors[names[0]] = np.array([scale], np.float32)
        self._tensors[names[1]] = np.array([zero, low, high], np.int32)

    def _take(self, layer: Layer, operator: Operator, activation: int) -> None:
        source, kernel, bias = (self.graph.tensors[index] for index in operator.inputs[:3])
        if layer is self.network.layers[0] and quantity_names(IMAGE)[0] not in self._tensors:
            self._keep(IMAGE, source)
        self._keep(layer.scope, self.graph.tensors[operator.outputs[0]], activation)
        if TYPES.get(kernel.type) != self._type or TYPES.get(bias.type) != "<i4":
            raise self._error(f"{layer.scope}: expected {np.dtype(self._type)} weights and an int32 bias")
        values, names = self._integers(operator.inputs[1]), weights_names(layer)
        channels = layer.out_channels
        axis = 3 if layer.kind == "depthwise" else 0
        counts = (kernel.scale.size, kernel.zero_point.size)
        if (counts, kernel.axis) not in (((1, 1), 0), ((channels, channels), axis)):
            raise self._error(
                f"{layer.scope}: expected one scale and zero point along axis 0, or {channels} along axis {axis}, "
                f"got {counts[0]} and {counts[1]} along axis {kernel.axis}"
            )
        if (kernel.zero_point != kernel.zero_point[0]).any() or abs(int(kernel.zero_point[0])) > 255:
            raise self._error(f"{layer.scope}: expected the same 8-bit zero point for all channels")
        stored = values.reshape(stored_shape(layer)).transpose(1, 2, 3, 0)
        self._tensors[names[0]] = np.ascontiguousarray(stored)
        self._tensors[names[1]] = np.ascontiguousarray(self._integers(operator.inputs[2]).reshape(-1), np.int32)
        self._tensors[names[2]] = np.ascontiguousarray(kernel.scale, np.float32)
        self._tensors[names[3]] = np.array(kernel.zero_point[:1], np.int32)

    def _integers(self, index: int) -> NDArray[Any]:
        found = self.graph.constant(index)
        if found is None:
            raise self._error(f"tensor {self.graph.tensors[index].name} is not constant")
        return found

    def _arithmetic(self, operator: Operator) -> Value:
        result = super()._arithmetic(operator)
        if not result.added:
            raise self._error("expected no arithmetic on the image in an 8-bit file")
        self._keep(sum_scope(result.layer // 3), self.graph.tensors[operator.outputs[0]])
        return replace(result)

    def finish(self) -> tuple[dict[str, NDArray[Any]], list[str]]:
        tensors, notes = super().finish()
        if self.network.logits.weights_name not in tensors:
            for name in quantity_names(SOFTMAX):
                tensors.pop(name, None)
        return tensors, notes[1:]
