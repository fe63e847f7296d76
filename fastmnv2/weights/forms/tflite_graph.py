"""Read the operators, tensors, constants and metadata of any TFLite file.

Field numbers are those of tensorflow/lite/schema/schema.fbs.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import WeightsError

if TYPE_CHECKING:
    from flatbuffers.table import Table

# Limits for malformed files. Parts of a flatbuffer may overlap, so more may be read than the file's size.
_LIMIT = 5_000  # operators, tensors and buffers each; the network has about 70, 180 and 180
_FEW = 16  # inputs and outputs of an operator, and dimensions; more are ignored
FILE_LIMIT = 64 << 20

# schema.fbs: BuiltinOperator, TensorType
_OPERATORS = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 6: "DEQUANTIZE", 9: "FULLY_CONNECTED",
    11: "L2_NORMALIZATION", 14: "LOGISTIC", 17: "MAX_POOL_2D", 18: "MUL", 19: "RELU", 21: "RELU6", 22: "RESHAPE",
    23: "RESIZE_BILINEAR", 25: "SOFTMAX", 28: "TANH", 34: "PAD", 40: "MEAN", 41: "SUB", 42: "DIV", 43: "SQUEEZE",
    53: "CAST", 55: "MAXIMUM", 57: "MINIMUM", 70: "EXPAND_DIMS", 74: "SUM", 76: "RSQRT", 77: "SHAPE", 82: "REDUCE_MAX",
    92: "SQUARE", 97: "RESIZE_NEAREST_NEIGHBOR", 98: "LEAKY_RELU", 114: "QUANTIZE",
}  # fmt: skip
TYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 9: "i1"}
_TYPE_NAMES = {7: "int16", 10: "float64", 12: "uint64", 15: "uint32", 16: "uint16", 17: "int4", 18: "bfloat16"}
_ZERO_POINTS = {"<i4": (0, 0), "u1": (0, 255), "i1": (-128, 127)}
_QUANTISED = tuple(_ZERO_POINTS)
_LEAST_SCALE = float(np.finfo(np.float32).tiny)  # smaller scales are denormal and lose precision


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
    signature: tuple[int, ...]  # its shape with -1 for open dimensions; () if missing


@dataclass(frozen=True)
class Operator:
    """An operator: its name in schema.fbs, the tensors it reads and writes, and its table of options."""

    name: str
    inputs: list[int]
    outputs: list[int]
    options: "Table | None"


class Graph:
    """The first subgraph of a TFLite file, read with the flatbuffers package."""

    def __init__(self, data: bytes, origin: str) -> None:
        try:
            from flatbuffers import number_types
            from flatbuffers.table import Table
        except ImportError as error:
            message = f"{origin}: reading TFLite files needs flatbuffers: pip install 'fastmnv2[tflite]'"
            raise ImportError(message, name="flatbuffers") from error
        self.data, self.origin = data, origin
        self._types, self._table = number_types, Table
        self._model = model = Table(data, int.from_bytes(data[:4], "little"))
        self._buffers = self.tables(model, 4)
        codes = [max(self.number(code, 0, "Int8"), self.number(code, 3, "Int32")) for code in self.tables(model, 1)]
        graphs = self.tables(model, 2)
        if not graphs:
            raise WeightsError(f"{origin}: expected a graph, found none")
        self.tensors = [self._tensor(table) for table in self.tables(graphs[0], 0)]
        self.inputs = self._few(graphs[0], 1)
        self.operators = [self._operator(table, codes) for table in self.tables(graphs[0], 3)]

    def number(self, table: "Table", field: int, kind: str, default: int = 0) -> int:
        """An integer field of a table."""
        flags = getattr(self._types, f"{kind}Flags")
        return int(table.GetSlot(4 + 2 * field, default, flags))

    def real(self, table: "Table", field: int) -> float:
        """A float32 field of a table."""
        return float(table.GetSlot(4 + 2 * field, 0.0, self._types.Float32Flags))

    def metadata(self, name: str) -> "Table | None":
        """The root of the flatbuffer in the model's metadata with this name; None if there is none."""
        for entry in self.tables(self._model, 6):
            if bytes(self.vector(entry, 0, "u1")[:200]) == name.encode():
                data = bytes(self.vector(self._buffers[self.number(entry, 1, "Uint32")], 0, "u1"))
                return self._table(data, int.from_bytes(data[:4], "little"))
        return None

    def vector(self, table: "Table", field: int, dtype: str) -> NDArray[Any]:
        """A vector of numbers, or a string's bytes; empty if missing."""
        offset = table.Offset(4 + 2 * field)
        if offset == 0:
            return np.zeros(0, dtype)
        return np.frombuffer(table.Bytes, dtype, table.VectorLen(offset), table.Vector(offset))

    def _few(self, table: "Table", field: int) -> list[int]:
        found: list[int] = self.vector(table, field, "<i4")[:_FEW].tolist()
        return found

    def tables(self, table: "Table", field: int) -> "list[Table]":
        """A vector of tables; empty if missing."""
        offset = table.Offset(4 + 2 * field)
        if offset == 0:
            return []
        count, start = table.VectorLen(offset), table.Vector(offset)
        if count > _LIMIT:
            raise WeightsError(f"{self.origin}: a list of {count} entries, expected at most {_LIMIT}")
        return [self._table(table.Bytes, table.Indirect(start + 4 * i)) for i in range(count)]

    def sub(self, table: "Table", field: int) -> "Table | None":
        """A table within a table, or a union's table; None if missing."""
        offset = table.Offset(4 + 2 * field)
        return self._table(table.Bytes, table.Indirect(table.Pos + offset)) if offset else None

    def _tensor(self, table: "Table") -> Tensor:
        quantisation = self.sub(table, 4)
        name = bytes(self.vector(table, 3, "u1")[:200]).decode(errors="replace")
        none = np.zeros(0)
        return Tensor(
            tuple(self._few(table, 0)),
            self.number(table, 1, "Int8"),
            self.number(table, 2, "Uint32"),
            name,
            self.vector(quantisation, 2, "<f4") if quantisation else none.astype("<f4"),
            self.vector(quantisation, 3, "<i8") if quantisation else none.astype("<i8"),
            self.number(quantisation, 6, "Int32") if quantisation else 0,
            tuple(self._few(table, 7)),
        )

    def _operator(self, table: "Table", codes: list[int]) -> Operator:
        code = codes[self.number(table, 0, "Uint32")]
        return Operator(
            _OPERATORS.get(code, f"operator {code}"),
            self._few(table, 1),
            self._few(table, 2),
            self.sub(table, 4),
        )

    def constant(self, index: int) -> NDArray[Any] | None:
        """A tensor's stored values; None if it has none."""
        tensor = self.tensors[index]
        data = self.vector(self._buffers[tensor.buffer], 0, "u1")
        if data.size == 0:
            return None
        if tensor.type not in TYPES:
            raise WeightsError(f"{self.origin}: {tensor.name}: values of {type_name(tensor.type)} can't be read")
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
        if values.dtype.kind == "f":
            return values.astype(np.float32)
        if TYPES[tensor.type] not in _QUANTISED:
            raise WeightsError(
                f"{self.origin}: {tensor.name}: expected weights of float32, float16, 8-bit integers or int32, got "
                f"{values.dtype.name}, as in files of 16-bit activations"
            )
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


def type_name(code: int) -> str:
    """A TensorType, for messages."""
    return np.dtype(TYPES[code]).name if code in TYPES else _TYPE_NAMES.get(code, f"type {code}")
