"""The layers of a Keras model's configuration as a tree of nested models, and the way from layer to layer.

Models may be functional or sequential, as Keras 2 and 3 write them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_LAYERS_LIMIT = 2000
_DEPTH_LIMIT = 16
_CALLS_LIMIT = 16


class Refused(Exception):
    """A layer that can't be run; the text names it."""


@dataclass
class Node:
    """A layer of a configuration, in the tree of nested models."""

    kind: str
    name: str
    config: dict[str, Any]
    parent: "Node | None"
    inputs: list[str] = field(default_factory=list)  # inputs of its first call
    other_calls: list[list[str]] = field(default_factory=list)  # inputs of each later call
    numbers: list[float] = field(default_factory=list)  # constants among the call's arguments
    number_first: bool = False
    children: "dict[str, Node]" = field(default_factory=dict)
    last: list[str] = field(default_factory=list)  # names of a model's output layers


def layers_of(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The configurations of a model's layers; none for other layers."""
    config = entry.get("config")
    layers = config if isinstance(config, list) else config.get("layers") if isinstance(config, dict) else None
    if not isinstance(layers, list):
        return []
    return [layer for layer in layers if isinstance(layer, dict) and isinstance(layer.get("class_name"), str)]


def tree(config: dict[str, Any]) -> Node:
    """A parsed model configuration as a tree.

    Raises:
        ValueError: if there are too many layers or calls, or models are nested too deeply.
    """
    root = _tree(config, None, 0, [0])
    _link(root)
    return root


def _tree(entry: dict[str, Any], parent: Node | None, depth: int, count: list[int]) -> Node:
    count[0] += 1
    if count[0] > _LAYERS_LIMIT or depth > _DEPTH_LIMIT:
        raise ValueError(f"more than {_LAYERS_LIMIT} layers, or models nested deeper than {_DEPTH_LIMIT}")
    raw = entry.get("config")
    config = raw if isinstance(raw, dict) else {}
    node = Node(str(entry.get("class_name"))[:100], str(config.get("name") or entry.get("name"))[:200], config, parent)
    calls = entry.get("inbound_nodes")
    if isinstance(calls, list) and calls:
        if len(calls) > _CALLS_LIMIT:
            raise ValueError(f"{node.name}: called {len(calls)} times, expected at most {_CALLS_LIMIT}")
        for call in calls[1:]:
            other = Node(node.kind, node.name, {}, None)
            _read_call(call, other)
            node.other_calls.append(other.inputs)
        _read_call(calls[0], node)
    wrapped = config.get("layer")
    if isinstance(wrapped, dict):  # a wrapper such as TimeDistributed, which can't be run
        node.kind = f"{node.kind} of a layer"
    for layer in layers_of(entry):
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


def _read_call(call: Any, node: Node) -> None:
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


def _link(node: Node) -> None:
    """Link the layers of sequential models, which don't record inputs: each takes the output of the one before."""
    if node.children and "output_layers" not in node.config:
        before: str | None = None
        for name, child in node.children.items():
            child.inputs = [before] if before is not None else []
            before = name
    for child in node.children.values():
        _link(child)


def walk(node: Node) -> list[Node]:
    """A layer, and if it is a model, all layers in it."""
    found = [node]
    for child in node.children.values():
        found += walk(child)
    return found


# ---- following the graph -------------------------------------------------------------------------------


def refuse(node: Node, why: str) -> Refused:
    """The error for a layer that can't be run."""
    return Refused(f"the layer {node.name} ({node.kind}) {why}")


def layers_before(node: Node) -> list[Node | None]:
    """The layers whose outputs ``node`` takes, one for each of its calls; None for the model's own input."""
    while not node.inputs or node.kind == "InputLayer":
        if node.parent is None:
            return [None]
        node = node.parent
    found: list[Node | None] = []
    for inputs in [node.inputs, *node.other_calls]:
        if len(inputs) != 1:
            raise refuse(node, f"has {len(inputs)} inputs, expected one")
        found.append(_inside(node.parent, inputs[0], node))
    return found


def _inside(parent: Node | None, name: str, taker: Node) -> Node:
    """The layer with this name in ``parent``; if it is a model, that model's last layer."""
    while parent is not None:
        found = parent.children.get(name)
        if found is None:
            raise refuse(taker, f"takes the output of {name[:100]!r}, which does not exist")
        if not found.children:
            return found
        if len(found.last) != 1:
            raise refuse(found, f"has {len(found.last)} outputs, expected one")
        parent, name = found, found.last[0]
    raise refuse(taker, "is outside of any model")


def layer_after(node: Node) -> Node | None:
    """The layer that takes the output of ``node``; None for the model's own output."""
    while node.parent is not None:
        takers = [child for child in node.parent.children.values() if node.name in child.inputs]
        ends = node.name in node.parent.last
        if len(takers) + ends > 1 or (ends and len(node.parent.last) > 1):
            names = ", ".join(child.name for child in takers) or "several outputs"
            raise refuse(node, f"goes to more than one place ({names}), expected one chain")
        if takers:
            return _entered(takers[0])
        if not ends:
            return None
        node = node.parent
    return None


def _entered(node: Node) -> Node:
    """The node itself, or a model's first layer."""
    while node.children:
        first = next(iter(node.children.values()))
        inputs = node.config.get("input_layers")
        if isinstance(inputs, list) and inputs:
            names = [inputs[0]] if isinstance(inputs[0], str) else _names(inputs)
            first = node.children.get(names[0] if names else "", first)
        node = first
    return node


def chain(start: Node, follow: Callable[[Node], Node | None]) -> list[Node]:
    """The layers that ``follow`` leads to, one after another, without ``start``."""
    found: list[Node] = []
    node = follow(start)
    while node is not None:
        if len(found) > _LAYERS_LIMIT or any(node is other for other in found[-50:]):
            raise refuse(node, "is in a circle")
        found.append(node)
        node = follow(node)
    return found
