"""TFLite files: float32, float16, and 8-bit files, which are dequantised exactly.

Tensor names are unreliable, so this module follows the operators in order and compares them with the network:
kinds, shapes, strides, padding, activations and residuals must match.
"""

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import WeightsError
from fastmnv2.core.network import DEFAULT, Layer, Network, nearest_multiplier, of
from fastmnv2.weights.files import file_sha256, read_file
from fastmnv2.weights.forms import tflite_metadata
from fastmnv2.weights.forms.tflite_graph import FILE_LIMIT, TYPES, Graph, Operator, type_name
from fastmnv2.weights.forms.tflite_head import HeadReader
from fastmnv2.weights.tensors import Source, range_of

if TYPE_CHECKING:
    from flatbuffers.table import Table

_Kind = TypeVar("_Kind", bound=Source)

# schema.fbs: ActivationFunctionType, Padding
NONE, RELU6 = 0, 3
_SAME, _VALID = 0, 1
_KEEPING = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE")
_RESIZING = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
_ACTIVATIONS = ("<f4", "<f2", "u1", "i1")


@dataclass(frozen=True)
class Value:
    """An activation: the output of ``layer`` (-1: the input image), and the operations on it since."""

    layer: int
    relu6: bool = False
    added: bool = False
    padded: bool = False
    pooled: bool = False
    scaled: float = 1.0
    shifted: float = 0.0
    pixels: bool | None = None  # whether the image is in [0,255]; None if unknown


def read(path: Path) -> Source:
    """Read a ``.tflite`` file. Raises a WeightsError that names the first operator that is not the network's."""
    graph = Graph(read_file(path, FILE_LIMIT), str(path))
    walk = Walk(graph)
    for number, operator in enumerate(graph.operators):
        walk.step(number, operator)
    return walk.source(path, Source)


def stored_shape(layer: Layer) -> tuple[int, ...]:
    """A layer's ``weights_shape`` in TFLite's layout: [out, kh, kw, in], or [1, kh, kw, C] for depthwise kernels."""
    height, width, inputs, outputs = layer.weights_shape
    return outputs, height, width, inputs


class Walk:
    """Follows the operators and collects each layer's weights."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.input_error = ""
        self._dequantised: dict[int, int] = {}  # an operator's output: the constant that it dequantises
        self._values = {index: self._image(index) for index in graph.inputs}
        self._head = HeadReader(graph, self._weights)
        self._tensors: dict[str, NDArray[np.float32]] = {}
        self._notes: list[str] = []
        self._next = 0
        self.input_range: tuple[float, float] | None = None
        self._where = ""
        self.size = self._image_size()
        self.network = self._network()

    def _image(self, index: int) -> Value:
        """The graph's input image, with the normalisation that the metadata defines."""
        if TYPES.get(self.graph.tensors[index].type, "") not in ("<f4", "<f2"):
            return Value(-1)  # scale and zero point define the meaning of the integers
        try:
            found = tflite_metadata.normalization(self.graph)
        except ValueError as error:
            self.input_error = str(error)
            return Value(-1)
        return Value(-1, scaled=1 / found.std, shifted=-found.mean / found.std, pixels=True) if found else Value(-1)

    def _network(self) -> Network:
        """The network to compare the graph with, from the shapes of its kernels and its image size, if known."""
        constants = {o.outputs[0]: o.inputs[0] for o in self.graph.operators if o.name == "DEQUANTIZE" and o.inputs}
        outputs: list[int | None] = []
        for operator in self.graph.operators:
            if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D") and len(operator.inputs) > 1:
                kernel = operator.inputs[1]
                shape = self.graph.tensors[constants.get(kernel, kernel)].shape
                outputs.append(None if len(shape) != 4 else shape[0] if operator.name == "CONV_2D" else shape[3])
        head = len(DEFAULT.layers) - 2
        outputs = (outputs + [None] * len(DEFAULT.layers))[: head + 1]
        multiplier = nearest_multiplier([outputs[0], *outputs[2:head:3], outputs[head]])
        size = self.size or DEFAULT.size
        try:
            return of(multiplier, *size)
        except ValueError as error:
            raise WeightsError(f"{self.graph.origin}: there is no network for such images: {error}") from None

    def _image_size(self) -> tuple[int, int] | None:
        """Height and width of the network's image; None if they are left open. The input must be one RGB image."""
        shapes = [self.graph.tensors[index].shape for index in self.graph.inputs]
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][3] != 3:
            found = ", ".join(map(str, map(list, shapes))) or "none"
            raise WeightsError(f"{self.graph.origin}: expected one input [n, height, width, 3], got {found}")
        before = itertools.takewhile(lambda operator: operator.name != "CONV_2D", self.graph.operators)
        shapes += [self.graph.tensors[o.outputs[0]].shape for o in before if o.name in _RESIZING and o.outputs]
        if len(shapes) > 1 and len(shapes[-1]) == 4:
            return shapes[-1][1], shapes[-1][2]
        signature = self.graph.tensors[self.graph.inputs[0]].signature
        height, width = shapes[0][1:3]
        return None if -1 in signature[1:] else (height, width)

    def _check_range(self, index: int) -> None:
        """Check the range of the quantised input that the first convolution takes, usually [-1,1]."""
        tensor = self.graph.tensors[index]
        kind = TYPES.get(tensor.type, "")
        if kind not in ("u1", "i1") or tensor.scale.size != 1 or tensor.zero_point.size != 1:
            return
        lowest = np.iinfo(kind).min - int(tensor.zero_point[0])
        black, white = lowest * float(tensor.scale[0]), (lowest + 255) * float(tensor.scale[0])
        # The images that a converter calibrated on may not have contained pure black and white.
        if -1.1 <= black <= -0.75 and 0.75 <= white <= 1.1:
            return
        for usual in (1.0, 255.0):
            if abs(black) <= 0.02 * usual and 0.75 * usual <= white <= 1.1 * usual:
                self.input_range = (0.0, usual)
                return
        self.input_error = (
            f"the first convolution takes numbers in [{black:.4g}, {white:.4g}], expected [-1, 1], [0, 1] or [0, 255]; "
            "pass input_range= to set the values of black and white"
        )

    def step(self, number: int, operator: Operator) -> bool:
        """Take the next operator. Return whether it, and its input, belong to the network."""
        self._where = f"operator {number} ({operator.name})"
        source = self._values.get(operator.inputs[0]) if operator.inputs else None
        if self._is_after_network(operator, source):
            return False
        if operator.name == "DEQUANTIZE" and source is None:
            self._dequantised[operator.outputs[0]] = operator.inputs[0]
            return False
        if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            result = self._convolution(operator, source)
        elif operator.name in ("ADD", "MUL", "SUB", "DIV"):
            result = self._arithmetic(operator)
        elif source is None or operator.name == "SHAPE":  # sizes, which converters compute within the graph
            return False
        else:
            result = self._without_weights(operator, source)
        for index in operator.outputs:
            self._check_type(index)
            self._values[index] = result
            if result.pooled:
                self._head.starts(index)
        return True

    def _without_weights(self, operator: Operator, source: Value) -> Value:
        """The output of an operator without weights."""
        if operator.name == "RELU6":
            return replace(source, relu6=True)
        if operator.name == "PAD":
            return self._pad(operator, source)
        if not source.pooled and source.layer == len(self.network.layers) - 2 and self._is_average(operator):
            return replace(source, pooled=True)
        if operator.name == "CAST" and source.layer == -1:
            return replace(source, pixels=True)
        if operator.name in (*_KEEPING, "SOFTMAX") or (operator.name in _RESIZING and source.layer == -1):
            return source
        raise self._error("this network has no such operator")

    def _check_type(self, index: int) -> None:
        tensor = self.graph.tensors[index]
        if TYPES.get(tensor.type, "") not in _ACTIVATIONS:
            raise self._error(
                f"tensor {tensor.name}: expected activations of float32 or 8-bit integers, got {type_name(tensor.type)}"
            )

    def _is_after_network(self, operator: Operator, source: Value | None) -> bool:
        """Whether an operator comes after the network. If so, it is added to the head or refused."""
        if source is not None and source.layer == len(self.network.layers) - 1:  # ImageNet's classes
            if operator.name not in (*_KEEPING, "SOFTMAX", "SHAPE"):
                self._head.refuse(self._where, "comes after the ImageNet classes", operator.outputs)
                return True
            return False
        if self._head.takes(operator):
            if source is not None and (operator.name in _KEEPING or self._is_logits(operator, source)):
                return False
            self._head.step(self._where, operator)
            return True
        if source is None or source.layer != len(self.network.layers) - 2:
            return False
        averages = self._is_average(operator) and source.relu6
        if averages or operator.name in ("DEQUANTIZE", "QUANTIZE", "SHAPE", "RELU6"):
            return False
        self._head.refuse(
            self._where, "takes the last map, but only its average after ReLU6 can be used", operator.outputs
        )
        return True

    def _is_average(self, operator: Operator) -> bool:
        """Whether an operator on the last map gives the average of each channel. One pixel is its own average."""
        last, left = self.network.head, self.graph.tensors[operator.outputs[0]].shape if operator.outputs else ()
        if len(left) not in (2, 4) or left[1:] not in ((last.out_channels,), (1, 1, last.out_channels)):
            return False
        if operator.name == "AVERAGE_POOL_2D":
            number, options = self.graph.number, operator.options
            window = (number(options, 4, "Int32"), number(options, 3, "Int32")) if options else ()
            return window == (last.out_height, last.out_width)
        one_pixel = last.out_height == last.out_width == 1
        return operator.name == "MEAN" or (one_pixel and operator.name in ("RESHAPE", "SQUEEZE"))

    def _is_logits(self, operator: Operator, source: Value) -> bool:
        """Whether it is the layer of ImageNet's 1001 classes."""
        if operator.name not in ("CONV_2D", "FULLY_CONNECTED") or not source.pooled or len(operator.inputs) < 3:
            return False
        stored = stored_shape(self.network.logits)
        return self._next == len(self.network.layers) - 1 and self._shape(operator.inputs[1]) in (stored, stored[::3])

    def finish(self) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
        """The layers' tensors, and notes. Call this after the last operator."""
        if self._next < len(self.network.layers) - 1:
            raise WeightsError(f"{self.graph.origin}: the graph ends before {self.network.layers[self._next].scope}")
        return self._tensors, ["batch norms were folded by the converter", *self._notes]

    def source(self, path: Path, kind: "type[_Kind]") -> "_Kind":
        """Everything from the file, as a Source or a Quantised."""
        tensors, notes = self.finish()
        names = tflite_metadata.labels(self.graph)
        imagenet = names is not None and len(names) == DEFAULT.classes and self._next == len(self.network.layers)
        head, head_error, more = self._head.head(self.network.features, None if imagenet else names)
        return kind(
            "tflite",
            str(path),
            file_sha256(path),
            tensors,
            (*notes, *more),
            input_range=self.input_range,
            input_error=self.input_error,
            head=head,
            head_error=head_error,
            size=self.size,
            multiplier=self.network.multiplier,
            labels=tuple(names) if imagenet and names else None,
        )

    def _error(self, text: str) -> WeightsError:
        return WeightsError(f"{self.graph.origin}: {self._where}: {text}")

    def _shape(self, index: int) -> tuple[int, ...]:
        return self.graph.tensors[self._dequantised.get(index, index)].shape

    def _weights(self, index: int) -> NDArray[np.float32]:
        """A constant as float32. Callers have checked its shape, which bounds its size."""
        found = self.graph.dequantised(self._dequantised.get(index, index))
        if found is None:
            raise self._error(f"tensor {self.graph.tensors[index].name} is not constant")
        return found

    def _convolution(self, operator: Operator, source: Value | None) -> Value:
        graph = self.graph
        if self._next >= len(self.network.layers):
            raise self._error("expected nothing after the logits")
        layer = self.network.layers[self._next]
        if source is None or operator.options is None or len(operator.inputs) < 3 or min(operator.inputs[:3]) < 0:
            raise self._error(f"expected {layer.scope} with kernel, bias and options")
        self._check_input(layer, source)
        if self._next == 0 and self.input_range is None:
            self._check_range(operator.inputs[0])
        dense = operator.name == "FULLY_CONNECTED"
        depthwise = operator.name == "DEPTHWISE_CONV_2D"
        if depthwise != (layer.kind == "depthwise") or (dense and not layer.is_logits):
            raise self._error(f"expected {layer.scope}, a {layer.kind} convolution")

        shape, biases = self._shape(operator.inputs[1]), math.prod(self._shape(operator.inputs[2]))
        stored = stored_shape(layer)
        if (not layer.is_logits and shape != stored) or biases != layer.out_channels:
            raise self._error(
                f"{layer.scope}: expected a kernel {list(stored)} and {layer.out_channels} biases, "
                f"got {list(shape)} and {biases}; no multiplier gives these channels, {self.network.multiplier:g} "
                "comes closest"
            )
        activation = graph.number(operator.options, 0 if dense else 4 if depthwise else 3, "Int8")
        if not dense:
            self._check_options(layer, operator.options, source.padded)
        if activation not in ((NONE, RELU6) if layer.relu6 else (NONE,)):
            raise self._error(
                f"{layer.scope}: expected {'RELU6' if layer.relu6 else 'no activation'}, got {activation}"
            )
        self._take(layer, operator, activation)
        self._next += 1
        return Value(self._next - 1, relu6=activation == RELU6 or (layer.relu6 and self._clamps(operator.outputs[0])))

    def _take(self, layer: Layer, operator: Operator, activation: int) -> None:
        """Store the weights of a layer whose operator has been checked."""
        kernel = self._weights(operator.inputs[1]).reshape(stored_shape(layer)).transpose(1, 2, 3, 0)
        self._tensors[layer.weights_name] = np.ascontiguousarray(kernel)
        self._tensors[layer.biases_name] = self._weights(operator.inputs[2]).reshape(-1)

    def _clamps(self, index: int) -> bool:
        """Whether a quantised tensor can only hold values in [0,6], which makes its operator a ReLU6."""
        tensor = self.graph.tensors[index]
        lowest = {"u1": 0, "i1": -128}.get(TYPES.get(tensor.type, ""))
        if lowest is None or tensor.scale.size != 1 or tensor.zero_point.size != 1:
            return False
        return int(tensor.zero_point[0]) == lowest and 0 < float(tensor.scale[0]) * 255 <= 6.001

    def _check_input(self, layer: Layer, source: Value) -> None:
        before = self.network.layers[self._next - 1]
        if self._next == 0:
            fits = source.layer == -1
            if fits and ((source.scaled, source.shifted) != (1.0, 0.0) or source.pixels):
                self.input_range = range_of(source.scaled, source.shifted, pixels=source.pixels)
                fits = self.input_range is not None
        else:
            fits = (source.layer, source.relu6, source.added) == (
                self._next - 1,
                before.relu6,
                before.residual,
            )
            fits = fits and (not layer.is_logits or source.pooled)
        if not fits:
            raise self._error(
                f"{layer.scope}: its input does not come from the layer before it in the network ({source})"
            )

    def _check_options(self, layer: Layer, options: "Table", padded: bool) -> None:
        number = self.graph.number
        padding = number(options, 0, "Int8")
        strides = (number(options, 1, "Int32"), number(options, 2, "Int32"))
        dilation = 5 if layer.kind == "depthwise" else 4
        dilations = (number(options, dilation, "Int32", 1), number(options, dilation + 1, "Int32", 1))
        # At stride 2, a PAD followed by VALID is the same as SAME.
        fits = padding == _SAME and not padded
        fits = fits or (padding == _VALID and (layer.kernel == 1 or (padded and layer.stride == 2)))
        if strides != (layer.stride, layer.stride) or dilations != (1, 1) or not fits:
            raise self._error(
                f"{layer.scope}: expected stride {layer.stride}, SAME padding and no dilation; got strides "
                f"{strides}, padding {padding}{' after a PAD' if padded else ''}, dilations {dilations}"
            )

    def _pad(self, operator: Operator, source: Value) -> Value:
        amounts = self.graph.constant(operator.inputs[1])
        if self._next >= len(self.network.layers):
            raise self._error("expected nothing after the logits")
        expected = [[0, 0], *map(list, self.network.layers[self._next].padding), [0, 0]]
        if amounts is None or amounts.size != 8 or amounts.tolist() != expected:
            raise self._error(f"expected a padding of {expected}, which the next layer needs")
        return replace(source, padded=True)

    def _arithmetic(self, operator: Operator) -> Value:
        if operator.options is not None and self.graph.number(operator.options, 0, "Int8") != NONE:
            raise self._error("expected no activation")
        values = [self._values.get(index) for index in operator.inputs[:2]]
        if None not in values and operator.name == "ADD":
            later, earlier = sorted((v for v in values if v), key=lambda v: v.layer, reverse=True)
            layer = self.network.layers[later.layer]
            block_input = self.network.layers[earlier.layer]
            fits = layer.residual and earlier.layer == max(later.layer - 3, 0) and not later.added and not later.relu6
            if not fits or (earlier.added, earlier.relu6) != (block_input.residual, block_input.relu6):
                raise self._error("this network has no such residual connection")
            return replace(later, added=True)
        value, constant = (values[0], operator.inputs[1]) if values[0] else (values[1], operator.inputs[0])
        if value is None or value.layer != -1 or math.prod(self._shape(constant)) not in (1, 3):
            raise self._error("expected arithmetic on the input image or a residual connection only")
        numbers = self._weights(constant).reshape(-1)
        return self._scaled(operator.name, value, numbers, image_first=values[0] is not None)

    def _scaled(self, name: str, image: Value, numbers: NDArray[np.float32], *, image_first: bool) -> Value:
        """The image after arithmetic with one number, or with a number for each channel."""
        number = float(numbers[0])
        divides = name == "DIV" and not (image_first and number)
        if divides or (numbers != numbers[0]).any():
            what = "divides by the image or by 0" if divides else "scales channels differently"
            self.input_error = f"{self._where} {what}, which can't be run; pass input_range= to replace it"
            return image
        if name in ("MUL", "DIV"):
            factor, offset = (number if name == "MUL" else 1 / number), 0.0
        else:
            factor = 1.0 if image_first or name == "ADD" else -1.0
            offset = -number if name == "SUB" and image_first else number
        return replace(image, scaled=image.scaled * factor, shifted=image.shifted * factor + offset)
