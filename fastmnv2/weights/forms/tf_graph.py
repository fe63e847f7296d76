"""Constants in TensorFlow's graphs (``saved_model.pb``, frozen ``.pb``), and how the graphs prepare images.

Graphs are read as protocol buffers, never run. Field numbers are those of tensorflow/core/framework/{graph,node_def,
function,attr_value,tensor}.proto and core/protobuf/{saved_model,meta_graph}.proto.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmnv2.weights.forms import bundle
from fastmnv2.weights.tensors import from_bfloat16, range_of

SAVED_MODEL_LIMIT = 32 << 20
_FIELDS_LIMIT = 1_000_000  # a Keras SavedModel has about 200,000
_DEPTH_LIMIT = 16  # nested calls of functions
_STEPS_LIMIT = 10_000

_NUMBERS = bundle.FLOATS | {3: "<i4", 4: "u1", 9: "<i8"}  # types.proto
_HALVES = 13  # TensorProto's field for the bits of float16 and bfloat16
_UINT8 = 4
_CONVOLUTIONS = ("Conv2D", "_FusedConv2D")
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
_SIZES = {"Shape", "ShapeN", "Size", "Rank", "NoOp", "Assert"}
_IDLE = {
    "Cast", "CheckNumerics", "EnsureShape", "FakeQuantWithMinMaxVars", "Identity", "IdentityN", "Pad",
    "PlaceholderWithDefault", "Placeholder", "PreventGradient", "Reshape", "Snapshot", "StopGradient",
}  # fmt: skip
_RESIZING = {"ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"}
_ARITHMETIC = {"Mul": "*", "Add": "+", "AddV2": "+", "BiasAdd": "+", "Sub": "-", "RealDiv": "/", "Div": "/"}


@dataclass
class _Node:
    """An operation; its attributes are parsed on demand."""

    name: str
    op: str
    inputs: list[str]
    attributes: list[bytes]


@dataclass
class _Body:
    """The nodes of a graph or of a function by name, and the consumers of each output, with the input's number."""

    nodes: dict[str, _Node] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    consumers: dict[str, list[tuple[_Node, int]]] = field(default_factory=dict)


_Affine = tuple[float, float]
"""Factor and offset."""


class Before(NamedTuple):
    """How a graph prepares images for its first convolution.

    Attributes:
        input_range: the values that black and white become; None if the graph does nothing to images.
        input_error: why the operations before the network can't be run, or "".
        size: height and width of the network's images; None if the graph leaves them open.
    """

    input_range: tuple[float, float] | None = None
    input_error: str = ""
    size: tuple[int, int] | None = None


class Reader:
    """Reads protocol buffers up to a limit of fields. Raises ValueError beyond it, or for malformed data."""

    def __init__(self) -> None:
        self._left = _FIELDS_LIMIT

    def fields(self, message: bytes) -> Iterator[tuple[int, Any]]:
        """The same as ``bundle.fields``, with the limit."""
        for found in bundle.fields(message):
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"the graph has more than {_FIELDS_LIMIT} fields")
            yield found

    def parts(self, message: bytes, number: int) -> list[bytes]:
        """The sub-messages and strings of one field."""
        return [value for key, value in self.fields(message) if key == number and isinstance(value, bytes)]

    def entries(self, message: bytes, number: int) -> dict[str, bytes]:
        """A map's values by key."""
        found: dict[str, bytes] = {}
        for entry in self.parts(message, number):
            pair = {key: value for key, value in self.fields(entry) if isinstance(value, bytes)}
            found[_text(pair.get(1, b""))] = pair.get(2, b"")
        return found

    def nodes(self, message: bytes, number: int, body: _Body) -> _Body:
        """Add the nodes in a message to ``body``, and return it."""
        for part in self.parts(message, number):
            node = _Node("", "", [], [])
            for key, value in self.fields(part):
                if key == 1:
                    node.name = _text(value)
                elif key == 2:
                    node.op = _text(value)
                elif key == 3:
                    node.inputs.append(_text(value))
                elif key == 5 and isinstance(value, bytes):
                    node.attributes.append(value)
            body.nodes[node.name] = node
        for node in body.nodes.values():
            for index, reference in enumerate(node.inputs):
                if not reference.startswith("^"):  # not a control input
                    body.consumers.setdefault(_plain(reference), []).append((node, index))
        return body

    def attribute(self, node: _Node, name: str, number: int) -> Any:
        """The value of a node's attribute in field ``number`` of AttrValue; None if there is none."""
        for entry in node.attributes:
            pair = {key: value for key, value in self.fields(entry) if isinstance(value, bytes)}
            if pair.get(1) == name.encode():
                return next((value for key, value in self.fields(pair.get(2, b"")) if key == number), None)
        return None

    def shape(self, message: Any) -> list[int]:
        """A TensorShapeProto's dimensions, -1 if unknown."""
        edges = []
        for part in self.parts(message, 2) if isinstance(message, bytes) else ():
            size = next((value for key, value in self.fields(part) if key == 1), 0)
            edges.append(_signed(size))
        return edges

    def constant(self, node: _Node) -> NDArray[Any] | None:
        """A Const's values; None if there are none or they are not numbers."""
        tensor = self.attribute(node, "value", 8) if node.op == "Const" else None
        if not isinstance(tensor, bytes):
            return None
        kind, content, shape, items = 0, b"", list[int](), list[Any]()
        for key, value in self.fields(tensor):
            if key == 1:
                kind = value
            elif key == 2:
                shape = self.shape(value)
            elif key == 4:
                content = value
            elif key in (5, 6, 7, 10, _HALVES) and kind in _NUMBERS:
                items += self._items(key, value, kind)
        if kind not in _NUMBERS or min(shape, default=0) < 0:
            return None
        count = math.prod(shape)
        if content:
            values = np.frombuffer(content, _NUMBERS[kind])
            values = from_bfloat16(values) if kind == bundle.BFLOAT16 else values
        else:  # the last value repeats up to the end
            if not 0 < len(items) <= count or count > 1 << 16:
                return None
            dtype = "<f4" if kind == bundle.BFLOAT16 else _NUMBERS[kind]
            values = np.array(items + items[-1:] * (count - len(items)), np.float64).astype(dtype)
        return values.reshape(shape) if values.size == count else None

    def _items(self, key: int, value: Any, kind: int) -> list[Any]:
        """The numbers in one of a TensorProto's fields of values, packed or one at a time."""
        dtype = {5: "<f4", 6: "<f8"}.get(key)
        if dtype:
            data = value if isinstance(value, bytes) else int(value).to_bytes(8, "little")[: np.dtype(dtype).itemsize]
            found: list[Any] = np.frombuffer(data, dtype).tolist()
            return found
        numbers = self._varints(value) if isinstance(value, bytes) else [_signed(value)]
        if key != _HALVES:
            return numbers
        bits = np.array([number & 0xFFFF for number in numbers], "<u2")
        halves: list[Any] = (from_bfloat16(bits) if kind == bundle.BFLOAT16 else bits.view("<f2")).tolist()
        return halves

    @staticmethod
    def _varints(data: bytes) -> list[int]:
        found, value, shift = [], 0, 0
        for byte in data[:64]:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                found.append(_signed(value))
                value = shift = 0
        return found


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(value: Any) -> str:
    return value[:1000].decode(errors="replace") if isinstance(value, bytes) else ""


def _plain(reference: str) -> str:
    """The node's name in ``node:output:0``."""
    return reference.partition(":")[0]


class Graph:
    """A GraphDef with its functions. Raises ValueError if it is malformed."""

    def __init__(self, reader: Reader, message: bytes) -> None:
        self._reader = reader
        self.body = reader.nodes(message, 1, _Body())
        self._functions: dict[str, bytes] = {}
        for library in reader.parts(message, 2):
            for function in reader.parts(library, 1):
                for signature in reader.parts(function, 1)[:1]:
                    for name in reader.parts(signature, 1)[:1]:
                        self._functions[_text(name)] = function
        self._bodies: dict[str, _Body] = {}
        self._left = _STEPS_LIMIT
        self._resized: tuple[int, int] | None = None

    def constants(self) -> dict[str, _Node]:
        """The Const nodes by name."""
        return {name: node for name, node in self.body.nodes.items() if node.op == "Const"}

    def values(self, node: _Node) -> NDArray[Any] | None:
        """A Const's values."""
        return self._reader.constant(node)

    def placeholders(self) -> list[str]:
        """Names of the nodes that could take images."""
        found = []
        for name, node in self.body.nodes.items():
            if node.op == "Placeholder":
                shape = self._reader.shape(self._reader.attribute(node, "shape", 7))
                if len(shape) == 4 and shape[3] == 3:
                    found.append(name)
        return found

    def before(self, name: str, shape: list[int] | None = None) -> Before | None:
        """How images change between a placeholder and the first convolution; None if they reach no convolution."""
        node = self.body.nodes.get(_plain(name))
        if node is None:
            return None
        shape = shape or self._reader.shape(self._reader.attribute(node, "shape", 7))
        size = (shape[1], shape[2]) if len(shape) == 4 and min(shape[1:3]) > 0 else None
        pixels = self._reader.attribute(node, "dtype", 6) == _UINT8
        blocked: list[_Node] = []
        self._resized = None
        found = self._follow(self.body, node.name, (1.0, 0.0), blocked, 0)
        if found is None:
            if not blocked:
                return None
            error = (
                f"the operation {blocked[0].name[:200]} ({blocked[0].op[:60]}) comes before the network and can't be "
                "run; pass input_range= to replace it"
            )
            return Before(None, error, size)
        size = self._resized or size
        if found == (1.0, 0.0) and not pixels:
            return Before(None, "", size)
        input_range = range_of(*found, pixels=pixels or None)
        if input_range is None:
            return Before(None, f"images times {found[0]} plus {found[1]} leaves no usable picture", size)
        return Before(input_range, "", size)

    def _function(self, name: str) -> _Body | None:
        if name not in self._bodies and name in self._functions:
            message, reader = self._functions[name], self._reader
            body = _Body()
            for signature in reader.parts(message, 1)[:1]:
                body.arguments = [_text(next(iter(reader.parts(part, 1)), b"")) for part in reader.parts(signature, 2)]
                outputs = [_text(next(iter(reader.parts(part, 1)), b"")) for part in reader.parts(signature, 3)]
                where = reader.entries(message, 4)
                body.returned = [_plain(_text(where.get(output, b""))) for output in outputs]
            self._bodies[name] = reader.nodes(message, 3, body)
        return self._bodies.get(name)

    def _follow(self, body: _Body, start: str, affine: _Affine, blocked: list[_Node], depth: int) -> _Affine | None:
        """Factor and offset of images at the first convolution after ``start``; None if they reach no convolution.

        ``affine``: factor and offset at ``start``. Operations that can't be followed are added to ``blocked``.
        """
        if depth > _DEPTH_LIMIT:
            raise ValueError(f"functions call functions deeper than {_DEPTH_LIMIT}")
        pending, seen = [(start, affine)], {start}
        while pending:
            name, current = pending.pop()
            for node, index in body.consumers.get(name, ()):
                self._left -= 1
                if self._left < 0:
                    raise ValueError(f"more than {_STEPS_LIMIT} operations before the network")
                if node.op in _CONVOLUTIONS and index == 0:
                    return current
                if node.op in _SIZES or node.name in seen:
                    continue
                if node.op in _CALLS:
                    arrived, after = self._call(node, index, current, blocked, depth)
                    if arrived:
                        return after
                else:
                    after = self._through(body, node, index, current)
                    blocked += [node] if after is None else []
                if after is not None:
                    seen.add(node.name)
                    pending.append((node.name, after))
        return None

    def _call(
        self, node: _Node, index: int, current: _Affine, blocked: list[_Node], depth: int
    ) -> tuple[bool, _Affine | None]:
        """Whether images reach a convolution within a function, and their factor and offset there, or on return."""
        inner = self._called(node)
        if inner is None or index >= len(inner.arguments):
            return False, None
        argument = inner.arguments[index]
        if found := self._follow(inner, argument, current, blocked, depth + 1):
            return True, found
        return False, current if argument in inner.returned else self._returned(inner, argument, current)

    def _through(self, body: _Body, node: _Node, index: int, current: _Affine) -> _Affine | None:
        """The factor and offset after an operation; None if it can't be followed."""
        if node.op in _ARITHMETIC:
            return self._arithmetic(body, node, index, current)
        if node.op in _RESIZING and index == 0 and len(node.inputs) > 1:
            edges = self._constant(body, node.inputs[1])
            self._resized = (int(edges[0]), int(edges[1])) if edges is not None and edges.shape == (2,) else None
        return current if (node.op in _IDLE or node.op in _RESIZING) and index == 0 else None

    def _returned(self, body: _Body, argument: str, current: _Affine) -> _Affine | None:
        """The factor and offset after a function without a convolution, such as a layer's own function."""
        at, value = argument, current
        for _ in range(100):
            if at in body.returned:
                return value
            consumers = [(node, index) for node, index in body.consumers.get(at, ()) if node.op not in _SIZES]
            if len(consumers) != 1:
                return None
            node, index = consumers[0]
            after = self._through(body, node, index, value)
            if after is None:
                return None
            at, value = node.name, after
        return None

    def _called(self, node: _Node) -> _Body | None:
        called = self._reader.attribute(node, "f", 10)
        names = self._reader.parts(called, 1) if isinstance(called, bytes) else []
        return self._function(_text(names[0])) if names else None

    def _arithmetic(self, body: _Body, node: _Node, index: int, current: _Affine) -> _Affine | None:
        operands = [reference for reference in node.inputs if not reference.startswith("^")]
        if len(operands) != 2 or index > 1:
            return None
        number = self._number(body, operands[1 - index])
        if number is None:
            return None
        scale, shift = current
        kind = _ARITHMETIC[node.op]
        if kind == "*":
            return scale * number, shift * number
        if kind == "+":
            return scale, shift + number
        if kind == "-":
            return (scale, shift - number) if index == 0 else (-scale, number - shift)
        return (scale / number, shift / number) if index == 0 and number else None

    def _number(self, body: _Body, reference: str) -> float | None:
        """A constant that is the same for every channel."""
        values = self._constant(body, reference)
        if values is None or not values.size or (values != values.flat[0]).any():
            return None
        return float(values.flat[0])

    def _constant(self, body: _Body, reference: str) -> NDArray[Any] | None:
        for _ in range(_DEPTH_LIMIT):
            node = body.nodes.get(_plain(reference))
            if node is None or node.op == "Const":
                return self._reader.constant(node) if node else None
            if node.op not in ("Identity", "Cast", "Reshape") or not node.inputs:
                return None
            reference = node.inputs[0]
        return None


def saved_model(data: bytes) -> Before:
    """How a SavedModel's graphs prepare images for the network. Raises ValueError if the file is malformed."""
    reader = Reader()
    best = Before()
    for meta in reader.parts(data, 2):
        graphs = reader.parts(meta, 2)
        if not graphs:
            continue
        signatures = reader.entries(meta, 5)
        usual = [name for name in ("serving_default", "default", "image_feature_vector") if name in signatures]
        graph = Graph(reader, graphs[0])
        for name in [*usual, *(name for name in signatures if name not in usual)]:
            for info in reader.entries(signatures[name], 1).values():
                entry = {key: value for key, value in reader.fields(info) if isinstance(value, bytes)}
                shape = reader.shape(entry.get(3))
                if len(shape) != 4 or shape[3] != 3:
                    continue
                found = graph.before(_text(entry.get(1, b"")), shape)
                if found is not None and not found.input_error:
                    return found
                best = found or best
        if best != Before():
            break
    return best
