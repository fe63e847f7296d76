"""A TFLite file's metadata (metadata_schema.fbs): the normalisation of images, and the names of the classes."""

import io
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from fastmnv2.weights.forms.tflite_graph import Graph

METADATA = "TFLITE_METADATA"
_NORMALIZATION, _LABELS = 1, (2, 3)  # ProcessUnitOptions; AssociatedFileType: labels of an axis, of values
_LABELS_LIMIT = 1 << 20
_DIRECTORY_LIMIT = 64 << 10


class Normalization(NamedTuple):
    """The normalisation of pixels in [0,255] before the graph: ``(x - mean) / std``."""

    mean: float
    std: float


def normalization(graph: "Graph") -> Normalization | None:
    """The normalisation of the graph's image; None if unknown. Raises ValueError if channels differ."""
    found = None
    for tensor in _tensors(graph, 2):
        for unit in graph.tables(tensor, 4):
            options = graph.sub(unit, 1)
            if graph.number(unit, 0, "Uint8") != _NORMALIZATION or options is None:
                continue
            mean, std = (graph.vector(options, field, "<f4") for field in (0, 1))
            if not mean.size or not std.size or (mean != mean[0]).any() or (std != std[0]).any():
                raise ValueError(
                    f"the metadata normalises channels differently (mean {mean[:3].tolist()}, std {std[:3].tolist()}), "
                    "which can't be run; pass input_range= to set one range for all"
                )
            found = Normalization(float(mean[0]), float(std[0]))
            if not np.isfinite(found).all() or found.std == 0:
                raise ValueError(f"the metadata's normalisation has a mean of {mean[0]} and a std of {std[0]}")
    return found


def labels(graph: "Graph") -> list[str] | None:
    """Names of the classes, from the text file that is appended to the graph; None if there is none."""
    if b"PK\5\6" not in graph.data[-(1 << 16) - 22 :]:
        return None
    end = graph.data.rfind(b"PK\5\6")
    if int.from_bytes(graph.data[end + 12 : end + 16], "little") > _DIRECTORY_LIMIT:
        return None
    try:
        archive = zipfile.ZipFile(io.BytesIO(graph.data))
    except (zipfile.BadZipFile, OSError, ValueError):  # weights that happen to contain the marker of an archive's end
        return None
    names = archive.namelist()
    listed = [
        _text(graph, file, 0)
        for tensor in _tensors(graph, 3)
        for file in graph.tables(tensor, 6)
        if graph.number(file, 2, "Int8") in _LABELS
    ]
    chosen = [name for name in listed if name in names] or [name for name in names if name.lower().endswith(".txt")]
    if len(set(names)) != len(names) or not chosen or (len(chosen) > 1 and not listed):
        return None
    info = archive.getinfo(chosen[0])
    if info.file_size > _LABELS_LIMIT or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return None
    with archive.open(info) as member:
        return lines_of(member.read(_LABELS_LIMIT))


def lines_of(data: bytes) -> list[str]:
    """The names in a file of labels, one per line."""
    lines = [line.strip() for line in data.decode("utf-8-sig", errors="replace").split("\n")]
    return [line for line in lines if line]


def _tensors(graph: "Graph", field: int) -> list[Any]:
    """Metadata of the first subgraph's inputs (field 2) or outputs (3)."""
    model = graph.metadata(METADATA)
    parts = graph.tables(model, 3) if model is not None else []
    return graph.tables(parts[0], field) if parts else []


def _text(graph: "Graph", table: Any, field: int) -> str:
    return bytes(graph.vector(table, field, "u1")[:200]).decode(errors="replace")
