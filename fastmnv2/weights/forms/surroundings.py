"""What a native file holds of the network's surroundings: its input range, a head behind it, names of classes.

In the metadata as JSON, with the head's tensors among the others, as ``head/<step>/<tensor>``.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from fastmnv2 import head
from fastmnv2.errors import WeightsError
from fastmnv2.weights.tensors import INPUT_RANGE, Folded, Tensors

TENSOR = re.compile(r"head/(\d{1,2})/(kernel|bias|scale|shift)")
_CLASSES_LIMIT = 20_000
_STEPS_LIMIT = 100


def outline(folded: Folded) -> dict[str, Any]:
    """What is not the module's own, but for tensors: nothing, for most files."""
    found: dict[str, Any] = {}
    if folded.range != INPUT_RANGE:
        found["input_range"] = folded.range
    if folded.head is not None:
        found["head"] = [{"kind": step.kind, "name": step.name} for step in folded.head.steps]
        found["classes"] = folded.head.classes
    return found


def read(path: Path, text: str, tensors: Tensors) -> tuple[tuple[float, float] | None, head.Head | None]:
    """Input range and head, from the JSON and the tensors that are named for it. Raises WeightsError."""

    def refused(what: str) -> WeightsError:
        return WeightsError(f"{path}: __metadata__: {what}")

    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not found.keys() <= {"input_range", "head", "classes"}:
        raise refused("around is not what fastmnv2 writes")
    edges, entries, classes = found.get("input_range"), found.get("head") or [], found.get("classes")
    if edges is not None and not _is_range(edges):
        raise refused(f"input_range: expected two different numbers, got {edges!r}")
    if not (isinstance(entries, list) and len(entries) <= _STEPS_LIMIT and all(map(_is_step, entries))):
        raise refused("head is not a list of kinds and names")
    if classes is not None and not (
        isinstance(classes, list) and len(classes) <= _CLASSES_LIMIT and all(isinstance(name, str) for name in classes)
    ):
        raise refused("classes is not a list of names")
    parts: list[Tensors] = [{} for _ in entries]
    for name, array in tensors.items():
        if place := TENSOR.fullmatch(name):
            if int(place[1]) >= len(parts):
                raise WeightsError(f"{path}: unexpected tensor {name!r}")
            parts[int(place[1])][place[2]] = array
    steps = [head.Step(entry["kind"], entry["name"], part) for entry, part in zip(entries, parts, strict=True)]
    made = head.Head(tuple(steps), tuple(classes) if classes else None) if steps else None
    return (float(edges[0]), float(edges[1])) if edges else None, made


def _is_range(edges: Any) -> bool:
    if not isinstance(edges, list) or len(edges) != 2 or edges[0] == edges[1]:
        return False
    return all(isinstance(edge, (int, float)) and math.isfinite(edge) for edge in edges)


def _is_step(entry: Any) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"kind", "name"}:
        return False
    return all(isinstance(value, str) for value in entry.values())


def shape(path: Path, name: str, found: Any) -> tuple[int, ...]:
    """What the file says of a tensor's shape, if that can be; the head's own checks come later."""
    possible = (
        isinstance(found, list) and len(found) in (1, 2) and all(type(edge) is int and edge > 0 for edge in found)
    )
    if not possible or math.prod(found) > head.LIMIT:
        raise WeightsError(
            f"{path}: {name}: expected one or two dimensions and at most {head.LIMIT} values, got {found!r}"
        )
    return tuple(found)
