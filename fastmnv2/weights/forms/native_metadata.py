"""The input range, the head and the class names in a native file.

They are stored as JSON in the metadata. The head's tensors are in the file as ``head/<step>/<tensor>``.
"""

import json
import re
from pathlib import Path
from typing import Any

from fastmnv2.core import head
from fastmnv2.core.errors import WeightsError
from fastmnv2.core.network import DEFAULT
from fastmnv2.weights.tensors import Tensors, is_range

_TENSOR = re.compile(rf"{head.PREFIX}(\d{{1,2}})/(kernel|bias|scale|shift)")
_CLASSES_LIMIT = 20_000
_STEPS_LIMIT = 100


_Labels = tuple[str, ...] | None


def read(
    path: Path, text: str, tensors: Tensors, features: int
) -> tuple[tuple[float, float] | None, head.Head | None, _Labels]:
    """Input range, head for this many features, and names of ImageNet's classes, from the JSON and the head's tensors.

    Raises WeightsError.
    """

    def refused(what: str) -> WeightsError:
        return WeightsError(f"{path}: __metadata__: {what}")

    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not found.keys() <= {"input_range", "head", "classes"}:
        raise refused("around: expected a JSON object with input_range, head or classes")
    edges, entries, classes = found.get("input_range"), found.get("head") or [], found.get("classes")
    if edges is not None and not _is_range(edges):
        raise refused(f"input_range: expected two different numbers, got {edges!r}")
    if not (isinstance(entries, list) and len(entries) <= _STEPS_LIMIT and all(map(_is_step, entries))):
        raise refused("head: expected a list of steps with kind and name")
    if classes is not None and not (
        isinstance(classes, list) and len(classes) <= _CLASSES_LIMIT and all(isinstance(name, str) for name in classes)
    ):
        raise refused("classes: expected a list of names")
    parts: list[Tensors] = [{} for _ in entries]
    for name, array in tensors.items():
        if not name.startswith(head.PREFIX):
            continue
        place = _TENSOR.fullmatch(name)
        if not place or int(place[1]) >= len(parts):
            raise WeightsError(f"{path}: unexpected tensor {name!r}")
        parts[int(place[1])][place[2]] = array
    steps = [head.Step(entry["kind"], entry["name"], part) for entry, part in zip(entries, parts, strict=True)]
    found_head = head.Head(tuple(steps), tuple(classes) if classes else None, features) if steps else None
    labels = tuple(classes) if classes and not steps else None
    if labels and len(labels) != DEFAULT.classes:
        raise refused(f"classes: expected {DEFAULT.classes} names without a head, got {len(labels)}")
    return (float(edges[0]), float(edges[1])) if edges else None, found_head, labels


def _is_range(edges: Any) -> bool:
    if not isinstance(edges, list) or len(edges) != 2 or edges[0] == edges[1]:
        return False
    return all(isinstance(edge, (int, float)) for edge in edges) and is_range(*edges)


def _is_step(entry: Any) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"kind", "name"}:
        return False
    return all(isinstance(value, str) for value in entry.values())
