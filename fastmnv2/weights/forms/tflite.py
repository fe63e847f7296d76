"""TFLite files: float32, float16, and 8-bit quantised ones, dequantised exactly.

Tensor names say nothing reliable, so the operators are followed in order and held against the network:
kinds, shapes, strides, padding, activations and residuals must be its own. Field numbers are those of
tensorflow/lite/schema/schema.fbs.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import WeightsError
from fastmnv2.core.network import DEFAULT, Layer, Network, nearest_multiplier, of
from fastmnv2.weights.files import file_sha256, read_file
from fastmnv2.weights.tensors import Source, range_of

if TYPE_CHECKING:
    from flatbuffers.table import Table

# The most that a malformed file may cost: parts of a flatbuffer may overlap, so its size is no limit.
_LIMIT = 5_000  # operators, tensors and buffers each; the network has about 70, 180 and 180
_FEW = 16  # inputs and outputs of an operator, dimensions; further ones are not looked at
FILE_LIMIT = 64 << 20

# schema.fbs: BuiltinOperator, ActivationFunctionType, Padding, TensorType
_OPERATORS = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 6: "DEQUANTIZE", 9: "FULLY_CONNECTED",
    18: "MUL", 21: "RELU6", 22: "RESHAPE", 25: "SOFTMAX", 34: "PAD", 40: "MEAN", 41: "SUB", 43: "SQUEEZE",
    77: "SHAPE", 114: "QUANTIZE",
}  # fmt: skip
NONE, RELU6 = 0, 3
_SAME, _VALID = 0, 1
TYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 9: "i1"}
_ZERO_POINTS = {"<i4": (0, 0), "u1": (0, 255), "i1": (-128, 127)}
_QUANTISED = tuple(_ZERO_POINTS)
_LEAST_SCALE = float(np.finfo(np.float32).tiny)  # smaller ones are not of full precision


@dataclass(frozen=True)
class Tensor:
    """A tensor's description: shape, TensorType, buffer, and how its integers are quantised."""

    shape: tuple[int, ...]
    type: int
    buffer: int
    name: str
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    axis: int
    signature: tuple[int, ...]  # its shape with -1 where it is left open; may be missing


@dataclass(frozen=True)
class Operator:
    """An operator: its name in schema.fbs, the tensors it reads and writes, and its table of options."""

    name: str
    inputs: list[int]
    outputs: list[int]
    options: "Table | None"


@dataclass(frozen=True)
class Value:
    """What an activation is: the output of ``layer`` (-1: the input image) and what happened to it since."""

    layer: int
    relu6: bool = False
    added: bool = False
    padded: bool = False
    pooled: bool = False
    scaled: float = 1.0
    shifted: float = 0.0


def read(path: Path) -> Source:
    """A ``.tflite`` file. Raises WeightsError naming the operator that is not the network's."""
    graph = Graph(read_file(path, FILE_LIMIT), str(path))
    walk = Walk(graph)
    for number, operator in enumerate(graph.operators):
        walk.step(number, operator)
    tensors, notes = walk.finish()
    return Source(
        "tflite",
        str(path),
        file_sha256(path),
        tensors,
        tuple(notes),
        input_range=walk.input_range,
        input_error=walk.input_error,
        size=walk.size,
        multiplier=walk.network.multiplier,
    )


class Graph:
    """The first subgraph of a TFLite file, read with the flatbuffers package."""

    def __init__(self, data: bytes, origin: str) -> None:
        try:
            from flatbuffers import number_types
            from flatbuffers.table import Table
        except ImportError as error:
            says = f"{origin}: reading TFLite files needs flatbuffers: pip install 'fastmnv2[tflite]'"
            raise ImportError(says, name="flatbuffers") from error
        self.data, self.origin = data, origin
        self._types, self._table = number_types, Table
        model = Table(data, int.from_bytes(data[:4], "little"))
        self._buffers = self._tables(model, 4)
        codes = [max(self.number(code, 0, "Int8"), self.number(code, 3, "Int32")) for code in self._tables(model, 1)]
        graphs = self._tables(model, 2)
        if not graphs:
            raise WeightsError(f"{origin}: expected a graph, found none")
        self.tensors = [self._tensor(table) for table in self._tables(graphs[0], 0)]
        self.inputs = self._few(graphs[0], 1)
        self.operators = [self._operator(table, codes) for table in self._tables(graphs[0], 3)]

    def number(self, table: "Table", field: int, kind: str, default: int = 0) -> int:
        """A field of a table."""
        flags = getattr(self._types, f"{kind}Flags")
        return int(table.GetSlot(4 + 2 * field, default, flags))

    def _vector(self, table: "Table", field: int, dtype: str) -> NDArray[Any]:
        offset = table.Offset(4 + 2 * field)
        if offset == 0:
            return np.zeros(0, dtype)
        return np.frombuffer(self.data, dtype, table.VectorLen(offset), table.Vector(offset))

    def _few(self, table: "Table", field: int) -> list[int]:
        found: list[int] = self._vector(table, field, "<i4")[:_FEW].tolist()
        return found

    def _tables(self, table: "Table", field: int) -> "list[Table]":
        offset = table.Offset(4 + 2 * field)
        if offset == 0:
            return []
        count, start = table.VectorLen(offset), table.Vector(offset)
        if count > _LIMIT:
            raise WeightsError(f"{self.origin}: a list of {count} entries, expected at most {_LIMIT}")
        return [self._table(self.data, table.Indirect(start + 4 * i)) for i in range(count)]

    def _sub(self, table: "Table", field: int) -> "Table | None":
        offset = table.Offset(4 + 2 * field)
        return self._table(self.data, table.Indirect(table.Pos + offset)) if offset else None

    def _tensor(self, table: "Table") -> Tensor:
        quantisation = self._sub(table, 4)
        name = bytes(self._vector(table, 3, "u1")[:200]).decode(errors="replace")
        none = np.zeros(0)
        return Tensor(
            tuple(self._few(table, 0)),
            self.number(table, 1, "Int8"),
            self.number(table, 2, "Uint32"),
            name,
            self._vector(quantisation, 2, "<f4") if quantisation else none.astype("<f4"),
            self._vector(quantisation, 3, "<i8") if quantisation else none.astype("<i8"),
            self.number(quantisation, 6, "Int32") if quantisation else 0,
            tuple(self._few(table, 7)),
        )

    def _operator(self, table: "Table", codes: list[int]) -> Operator:
        code = codes[self.number(table, 0, "Uint32")]
        return Operator(
            _OPERATORS.get(code, f"operator {code}"),
            self._few(table, 1),
            self._few(table, 2),
            self._sub(table, 4),
        )

    def constant(self, index: int) -> NDArray[Any] | None:
        """A tensor's stored values as they are, None if it has none."""
        tensor = self.tensors[index]
        data = self._vector(self._buffers[tensor.buffer], 0, "u1")
        if data.size == 0 or tensor.type not in TYPES:
            return None
        dtype = np.dtype(TYPES[tensor.type])
        if min(tensor.shape, default=1) < 0 or math.prod(tensor.shape) * dtype.itemsize != data.size:
            raise WeightsError(
                f"{self.origin}: {tensor.name}: {data.size} bytes do not make {dtype} of shape {list(tensor.shape)}"
            )
        return data.view(dtype).reshape(tensor.shape)

    def dequantised(self, index: int) -> NDArray[np.float32] | None:
        """A constant as float32: ``(q - zero_point) * scale`` in float64, rounded once."""
        values = self.constant(index)
        if values is None:
            return None
        tensor = self.tensors[index]
        if TYPES[tensor.type] not in _QUANTISED:
            return values.astype(np.float32)
        channels = tensor.shape[tensor.axis] if 0 <= tensor.axis < len(tensor.shape) else 1
        if tensor.scale.size not in (1, channels) or tensor.zero_point.size not in (0, 1, tensor.scale.size):
            raise WeightsError(
                f"{self.origin}: {tensor.name}: expected one scale or {channels}, got {tensor.scale.size} scales and "
                f"{tensor.zero_point.size} zero points"
            )
        if not (np.isfinite(tensor.scale).all() and tensor.scale.min() >= _LEAST_SCALE):
            raise WeightsError(f"{self.origin}: {tensor.name}: expected positive scales, got {tensor.scale.min()}")
        low, high = _ZERO_POINTS[TYPES[tensor.type]]
        if tensor.zero_point.size and not (low <= tensor.zero_point.min() and tensor.zero_point.max() <= high):
            got = tensor.zero_point.min() if tensor.zero_point.min() < low else tensor.zero_point.max()
            raise WeightsError(f"{self.origin}: {tensor.name}: expected zero points from {low} to {high}, got {got}")
        shape = [1] * len(tensor.shape)
        if tensor.scale.size > 1:
            shape[tensor.axis] = -1
        scale = tensor.scale.astype(np.float64).reshape(shape)
        zero = tensor.zero_point.reshape(shape if tensor.zero_point.size > 1 else [1] * len(shape) or ())
        offset = zero.astype(np.float64) if tensor.zero_point.size else 0.0
        return ((values.astype(np.float64) - offset) * scale).astype(np.float32)


def stored_shape(layer: Layer) -> tuple[int, ...]:
    """TFLite's [out, kh, kw, in], for depthwise [1, kh, kw, C], of what the network has as ``weights_shape``."""
    height, width, inputs, outputs = layer.weights_shape
    return outputs, height, width, inputs


class Walk:
    """Follows the operators and collects each layer's weights."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._values = {index: Value(-1) for index in graph.inputs}
        self._dequantised: dict[int, int] = {}  # an operator's output: the constant that it dequantises
        self._tensors: dict[str, NDArray[np.float32]] = {}
        self._notes: list[str] = []
        self._next = 0
        self.input_range: tuple[float, float] | None = None
        self.input_error = ""
        self._where = ""
        self.size = self._image_size()
        self.network = self._network()

    def _network(self) -> Network:
        """What the graph is held against: by its kernels' shapes, and for images of its size, if it says one."""
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
        except (ValueError, OverflowError) as error:
            raise WeightsError(f"{self.graph.origin}: there is no network for such images: {error}") from None

    def _image_size(self) -> tuple[int, int] | None:
        """Height and width of the graph's input, which must be one RGB image; None if they are left open."""
        shapes = [self.graph.tensors[index].shape for index in self.graph.inputs]
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][3] != 3:
            found = ", ".join(map(str, map(list, shapes))) or "none"
            raise WeightsError(f"{self.graph.origin}: expected one input [n, height, width, 3], got {found}")
        signature = self.graph.tensors[self.graph.inputs[0]].signature
        height, width = shapes[0][1:3]
        return None if -1 in signature[1:] else (height, width)

    def _check_range(self, index: int) -> None:
        """Integers that the first convolution takes say what numbers they stand for: for this network, [-1,1]."""
        tensor = self.graph.tensors[index]
        kind = TYPES.get(tensor.type, "")
        if kind not in ("u1", "i1") or tensor.scale.size != 1 or tensor.zero_point.size != 1:
            return
        lowest = np.iinfo(kind).min - int(tensor.zero_point[0])
        black, white = lowest * float(tensor.scale[0]), (lowest + 255) * float(tensor.scale[0])
        # What a converter has seen of images may not have been quite black or white.
        if not (-1.1 <= black <= -0.75 and 0.75 <= white <= 1.1):
            self.input_error = (
                f"the first convolution takes numbers in [{black:.4g}, {white:.4g}], expected [-1, 1]; "
                "input_range= says what black and white become before it"
            )

    def step(self, number: int, operator: Operator) -> None:
        """Take the next operator."""
        self._where = f"operator {number} ({operator.name})"
        source = self._values.get(operator.inputs[0]) if operator.inputs else None
        result: Value | None
        if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            result = self._convolution(operator, source)
        elif operator.name == "DEQUANTIZE" and source is None:
            self._dequantised[operator.outputs[0]] = operator.inputs[0]
            return
        elif operator.name in ("ADD", "MUL", "SUB"):
            result = self._arithmetic(operator)
        elif source is None or operator.name == "SHAPE":  # sizes, which converters compute on the way
            return
        elif operator.name == "RELU6":
            result = replace(source, relu6=True)
        elif operator.name == "PAD":
            result = self._pad(operator, source)
        elif operator.name in ("MEAN", "AVERAGE_POOL_2D"):
            if source.layer != len(self.network.layers) - 2:
                raise self._error("expected the average after the last convolution only")
            result = replace(source, pooled=True)
        elif operator.name in ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "SOFTMAX"):
            result = source
        else:
            raise self._error("this network has no such operator")
        for index in operator.outputs:
            self._values[index] = result

    def finish(self) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
        """The layers' tensors and notes, when there are no more operators."""
        if self._next < len(self.network.layers) - 1:
            raise WeightsError(f"{self.graph.origin}: the graph ends before {self.network.layers[self._next].scope}")
        return self._tensors, ["batch norms were folded by the converter", *self._notes]

    def _error(self, text: str) -> WeightsError:
        return WeightsError(f"{self.graph.origin}: {self._where}: {text}")

    def _shape(self, index: int) -> tuple[int, ...]:
        return self.graph.tensors[self._dequantised.get(index, index)].shape

    def _weights(self, index: int) -> NDArray[np.float32]:
        """A constant as float32. Callers have looked at its shape: that is what keeps it small."""
        found = self.graph.dequantised(self._dequantised.get(index, index))
        if found is None:
            raise self._error(f"tensor {self.graph.tensors[index].name} is not constant")
        return found

    def _convolution(self, operator: Operator, source: Value | None) -> Value:
        graph = self.graph
        if self._next >= len(self.network.layers):
            raise self._error("expected nothing after the logits")
        layer = self.network.layers[self._next]
        if source is None or operator.options is None or len(operator.inputs) < 3:
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
        if layer.is_logits and shape not in (stored, stored[::3]):
            self._notes.append(f"a last layer of shape {list(shape)} is ignored: it is not ImageNet's")
            return replace(source, layer=len(self.network.layers) - 1)
        if (not layer.is_logits and shape != stored) or biases != layer.out_channels:
            raise self._error(
                f"{layer.scope}: expected a kernel {list(stored)} and {layer.out_channels} biases, "
                f"got {list(shape)} and {biases}; no multiplier gives such channels, {self.network.multiplier:g} the "
                "most of them"
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
        """Keep the weights of a layer whose operator is right."""
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
            if fits and (source.scaled, source.shifted) != (1.0, 0.0):
                self.input_range = range_of(source.scaled, source.shifted)
                fits = self.input_range is not None
        else:
            fits = (source.layer, source.relu6, source.added) == (
                self._next - 1,
                before.relu6,
                before.residual,
            )
            fits = fits and (not layer.is_logits or source.pooled)
        if not fits:
            raise self._error(f"{layer.scope}: its input is not what comes before it in the network ({source})")

    def _check_options(self, layer: Layer, options: "Table", padded: bool) -> None:
        number = self.graph.number
        padding = number(options, 0, "Int8")
        strides = (number(options, 1, "Int32"), number(options, 2, "Int32"))
        dilation = 5 if layer.kind == "depthwise" else 4
        dilations = (number(options, dilation, "Int32", 1), number(options, dilation + 1, "Int32", 1))
        # Padded, then VALID: what SAME means at stride 2.
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
            raise self._error(f"expected a padding of {expected}, as the next layer wants it")
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
        if value is None or value.layer != -1 or math.prod(self._shape(constant)) != 1:
            raise self._error("expected arithmetic on the input image or a residual connection only")
        number = float(self._weights(constant).reshape(-1)[0])
        if operator.name == "MUL":
            return replace(value, scaled=value.scaled * number, shifted=value.shifted * number)
        if operator.name == "SUB" and values[0] is None:
            raise self._error("expected the constant to be subtracted from the image")
        return replace(value, shifted=value.shifted + (number if operator.name == "ADD" else -number))
