"""The operators after the pooling in a TFLite file, as the steps of a head."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import WeightsError
from fastmnv2.core.head import LIMIT, Head, Step

if TYPE_CHECKING:
    from fastmnv2.weights.forms.tflite_graph import Graph, Operator

_ACTIVATIONS = {1: "relu", 3: "relu6"}  # schema.fbs: ActivationFunctionType
_SAME = {"QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS"}
_OWN = {"RELU": "relu", "RELU6": "relu6", "LOGISTIC": "sigmoid", "SOFTMAX": "softmax", "L2_NORMALIZATION": "unit"}
_ARITHMETIC = {"ADD", "SUB", "MUL", "DIV"}
_UNIT = {"SQUARE": ("x", "squares"), "SUM": ("squares", "sum"), "RSQRT": ("sum", "factor")}
_EXPECTED = "; expected dense layers, batch norms and activations in one chain; head=False skips the whole head"


class _Place(NamedTuple):
    """A tensor's place in the chain."""

    steps: int  # the number of steps before it
    role: str = "x"  # its role when a vector is divided by its length: "x", "squares", "sum" or "factor"


class HeadReader:
    """Follows the operators after the pooling.

    Attributes:
        error: the first operator that can't be run, or "".
    """

    def __init__(self, graph: "Graph", weights: Callable[[int], NDArray[np.float32]]) -> None:
        self._graph, self._weights = graph, weights
        self._places: dict[int, _Place | None] = {}  # None: after an operator that can't be run
        self._steps: list[Step] = []
        self._left = LIMIT
        self.error = ""

    def starts(self, index: int) -> None:
        """Mark a tensor as the features."""
        self._places[index] = _Place(0)

    def refuse(self, where: str, why: str, outputs: list[int]) -> None:
        """Skip an operator and everything that follows it."""
        self.error = self.error or f"{where} {why}{_EXPECTED}"
        self._places |= dict.fromkeys(outputs)

    def takes(self, operator: "Operator") -> bool:
        """Whether one of its inputs comes after the pooling."""
        return any(index in self._places for index in operator.inputs)

    def step(self, where: str, operator: "Operator") -> None:
        """Take an operator after the pooling."""
        inputs = [index for index in operator.inputs if index in self._places]
        place = self._places[inputs[0]]
        if place is None or operator.name == "SHAPE":  # sizes, or after a refused operator
            self._places |= dict.fromkeys(operator.outputs) if place is None else {}
            return
        try:
            found = self._step(operator, [self._places[index] for index in inputs], inputs)
        except (WeightsError, ValueError, IndexError) as error:
            self.refuse(f"{where}:", str(error), operator.outputs)
            return
        for index in operator.outputs:
            self._places[index] = found

    def head(self, features: int, classes: list[str] | None) -> tuple[Head | None, str, list[str]]:
        """The head or None, why the head can't be run or "", and notes."""
        if self.error or not self._steps:
            return None, self.error, []
        try:
            head = Head(tuple(self._steps), inputs=features)
        except WeightsError as error:
            return None, f"{error}{_EXPECTED}", []
        if not classes:
            return head, "", []
        if len(classes) != head.count:
            return head, "", [f"the {len(classes)} labels are ignored, because the head has {head.count} classes"]
        return Head(head.steps, tuple(classes), features), "", []

    def _step(self, operator: "Operator", places: list[_Place | None], inputs: list[int]) -> _Place:
        place = places[0]
        name, kind = self._name(operator), operator.name
        if place is None or any(other is None for other in places):
            raise ValueError("takes the output of an operator that can't be run")
        if kind in _UNIT and place.role == _UNIT[kind][0]:
            return _Place(place.steps, _UNIT[kind][1])
        if kind in ("MINIMUM", "MAXIMUM") and place.role in ("sum", "factor") and len(inputs) == 1:
            return place  # an epsilon that prevents division by 0
        if kind == "MUL" and len(places) == 2 and {part.role for part in places if part} == {"x", "factor"}:
            return self._add(place, Step("unit", name))
        if place.role != "x" or len(inputs) != 1:
            raise ValueError(f"{name} takes {len(inputs)} outputs of the network, expected one")
        if kind in _SAME:
            return place
        if kind in ("FULLY_CONNECTED", "CONV_2D"):
            return self._dense(operator, place, name)
        if kind in _ARITHMETIC:
            return self._affine(operator, place, name, inputs[0])
        if kind == "SOFTMAX" and operator.options is not None and self._graph.real(operator.options, 0) != 1:
            raise ValueError(f"{name} is a softmax with a beta that is not 1")
        if kind not in _OWN:
            raise ValueError(f"{name} can't be run")
        return self._add(place, Step(_OWN[kind], name))

    def _name(self, operator: "Operator") -> str:
        """The name of the last Keras layer that was fused into an operator."""
        names = self._graph.tensors[operator.outputs[0]].name if operator.outputs else ""
        return names.split(";")[-1][-80:] or operator.name.lower()

    def _add(self, place: _Place, *steps: Step) -> _Place:
        if place.steps != len(self._steps):
            raise ValueError(f"{steps[0].name} is a second branch, expected one chain")
        self._steps += steps
        return _Place(len(self._steps))

    def _constant(self, index: int) -> NDArray[np.float32]:
        shape = self._graph.tensors[index].shape
        self._left -= math.prod(shape)
        if self._left < 0:
            raise ValueError(f"expected a head of at most {LIMIT} values, got more")
        return self._weights(index)

    def _dense(self, operator: "Operator", place: _Place, name: str) -> _Place:
        convolution = operator.name == "CONV_2D"
        kernel = self._constant(operator.inputs[1])
        if convolution and kernel.ndim == 4 and kernel.shape[1:3] == (1, 1):
            kernel = kernel[:, 0, 0, :]
        if kernel.ndim != 2 or operator.options is None:
            raise ValueError(f"{name} has a kernel of shape {list(kernel.shape)}")
        if not convolution and self._graph.number(operator.options, 1, "Int8"):
            raise ValueError(f"{name} has shuffled weights")
        bias = np.zeros(len(kernel), np.float32)
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = self._constant(operator.inputs[2]).reshape(-1)
        steps = [Step("dense", name, {"kernel": np.ascontiguousarray(kernel.T), "bias": bias})]
        return self._add(place, *steps, *self._fused(operator, 3 if convolution else 0, name))

    def _fused(self, operator: "Operator", field: int, name: str) -> list[Step]:
        code = self._graph.number(operator.options, field, "Int8") if operator.options is not None else 0
        if code and code not in _ACTIVATIONS:
            raise ValueError(f"{name} has the activation {code}")
        return [Step(_ACTIVATIONS[code], name)] if code else []

    def _affine(self, operator: "Operator", place: _Place, name: str, index: int) -> _Place:
        first = operator.inputs[0] == index
        values = self._constant(operator.inputs[1 if first else 0]).reshape(-1)
        width = self._graph.tensors[index].shape[-1]
        values = np.broadcast_to(values, (width,)).copy()
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        if operator.name == "DIV" and not (first and values.all()):
            raise ValueError(f"{name} divides by the features or by 0")
        if operator.name == "ADD":
            scale, shift = ones, values
        elif operator.name == "SUB":
            scale, shift = (ones, -values) if first else (-ones, values)
        else:
            scale, shift = (ones / values if operator.name == "DIV" else values), zeros
        step = Step("affine", name, {"scale": np.ascontiguousarray(scale), "shift": np.ascontiguousarray(shift)})
        return self._add(place, step, *self._fused(operator, 0, name))
