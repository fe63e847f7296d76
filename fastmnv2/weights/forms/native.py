"""The native form, which loads fastest: folded weights as ``.safetensors``, float32 or 8-bit integers.

The format (github.com/huggingface/safetensors): eight bytes with the header's length, a JSON header with each tensor's
dtype, shape and offsets, then the data without holes. This module reads it with numpy alone, because ``embed`` should
need no other package.
"""

import json
import math
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core import head
from fastmnv2.core.arguments import Precision
from fastmnv2.core.atomic import writing
from fastmnv2.core.errors import WeightsError
from fastmnv2.core.network import DEFAULT, WIDEST, Network, of, shapes
from fastmnv2.weights.files import open_file, read_block
from fastmnv2.weights.tensors import Allowed, Folded, Source

FORMAT_VERSION = "1"
_WITH_AROUND = "2"  # the version of files with a head or another input range, which older readers must refuse
_WITH_NETWORK = "3"  # the version of files for another network than 0.75/96, with or without a head
_HEADER_LIMIT = 1 << 20  # the entries of all our tensors take about 11 KB, the names of a thousand classes 40 KB
_ALIGN = 64

_WIDEST_SHAPES = shapes(of(WIDEST, *DEFAULT.size).layers, folded=True)
_FILE_LIMIT = 8 + _HEADER_LIMIT + sum(4 * math.prod(shape) for shape in _WIDEST_SHAPES.values()) + 4 * head.LIMIT
_TYPES = {"F32": "<f4", "I32": "<i4", "I8": "|i1", "U8": "|u1"}


def write(path: str | os.PathLike[str], folded: Folded) -> None:
    """Write ``folded`` to ``path`` atomically.

    Raises:
        WeightsError: if its metadata, such as class names, are too long for the format.
    """
    text, arrays = _header(folded)
    with writing(Path(path)) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays:
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def check(folded: Folded) -> None:
    """Raise WeightsError if ``write`` would refuse ``folded``."""
    _header(folded)


def _header(folded: Folded) -> tuple[bytes, list[NDArray[Any]]]:
    """The file's header, and the arrays in the order in which they follow it."""
    header: dict[str, Any] = {
        "__metadata__": {
            "format": "fastmnv2",
            "format_version": FORMAT_VERSION,
            "source": _public(folded.origin),
            "source_form": folded.form,
            "source_sha256": folded.sha256,
            "notes": json.dumps(folded.notes),
            **({"precision": "int8"} if folded.quantised is not None else {}),
        }
    }
    tensors, around = dict(folded.tensors), folded.around
    if around:
        header["__metadata__"] |= {"format_version": _WITH_AROUND, "around": json.dumps(around)}
        tensors |= folded.head.tensors if folded.head else {}
    network = folded.network
    if network != DEFAULT:
        entry = {"multiplier": network.multiplier, "height": network.height, "width": network.width}
        header["__metadata__"] |= {"format_version": _WITH_NETWORK, "network": json.dumps(entry)}
    offset = 0
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    types = {np.dtype(kind): name for name, kind in _TYPES.items()}
    for name, array in sorted(arrays.items(), key=lambda item: -item[1].itemsize):  # largest items first, for alignment
        stored = types.get(array.dtype.newbyteorder("<"))
        if stored is None:
            raise TypeError(f"{name}: expected float32, int32, int8 or uint8, got {array.dtype}")
        header[name] = {
            "dtype": stored,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    if len(text) > _HEADER_LIMIT:
        names = len(json.dumps(folded.head.classes)) if folded.head else 0
        raise WeightsError(
            f"expected a header of at most {_HEADER_LIMIT} bytes, got {len(text)}, of which the names of classes take "
            f"{names}; use shorter names"
        )
    return text, [arrays[name] for name in list(header)[1:]]


def precision_of(path: Path) -> Precision:
    """The precision that a native file records, "int8" or "float32"; "float32" for files of other forms."""
    try:
        with open_file(path) as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            text = file.read(length) if len(start) == 8 and 2 <= length <= _HEADER_LIMIT else b""
        found = json.loads(text).get("__metadata__", {}).get("precision") if text[:1] == b"{" else None
    except (OSError, ValueError, AttributeError, RecursionError):  # reading the file reports the error
        return "float32"
    return "int8" if found == "int8" else "float32"


def _public(origin: str) -> str:
    """A URL unchanged, or the last part of a path, because its folders are private."""
    return origin if "://" in origin else os.path.basename(origin.rstrip("/"))


def read(path: Path) -> Source:
    """Read the tensors as views of the file's bytes; 8-bit files give a Quantised.

    Raises WeightsError if the file differs in any way from what ``write`` makes.
    """
    # Read instead of mapped: this costs 2 ms, but if a mapped file is truncated, SIGBUS kills the process.
    data = read_block(path, _FILE_LIMIT)
    size = len(data)
    header, start = parsed_header(path, data)
    metadata = _metadata(path, header.pop("__metadata__", None))
    network = _network(path, metadata)
    tensors = {}
    end = 0
    made: type[Source] = Source
    if "precision" in metadata:
        from fastmnv2.weights.int8 import quantised  # imported here, because float32 models load faster without it

        made, allowed = quantised.Quantised, quantised.allowed_shapes(network)
    else:
        allowed = {name: (("F32",), (shape,)) for name, shape in shapes(network.layers, folded=True).items()}
    entries = _entries(path, header, allowed, with_head="around" in metadata)
    for name, (dtype, shape, begin, stop) in sorted(entries.items(), key=lambda item: item[1][2]):
        if begin != end or stop - begin != dtype.itemsize * math.prod(shape) or start + stop > size:
            raise WeightsError(
                f"{path}: {name}: data_offsets [{begin}, {stop}] of shape {list(shape)} overlap, leave a hole, or "
                f"run past the file's {size} bytes"
            )
        end = stop
        tensors[name] = np.frombuffer(data, dtype, math.prod(shape), start + begin).reshape(shape)
    if start + end != size:
        raise WeightsError(f"{path}: {size - start - end} bytes follow the last tensor, expected none")
    input_range, found_head, labels = None, None, None
    if "around" in metadata:
        from fastmnv2.weights.forms import native_metadata

        input_range, found_head, labels = native_metadata.read(path, metadata["around"], tensors, network.features)
    return made(
        "native",
        str(path),
        metadata["source_sha256"],
        {name: array for name, array in tensors.items() if not name.startswith(head.PREFIX)},
        (f"converted from {metadata['source_form']} {metadata['source']}", *json.loads(metadata["notes"])),
        os.path.abspath(path),
        input_range=input_range,
        head=found_head,
        labels=labels,
        size=network.size,
        multiplier=network.multiplier,
    )


def parsed_header(path: Path, data: memoryview) -> tuple[dict[str, Any], int]:
    """A safetensors file's header and the offset of its data. Raises WeightsError."""
    size = len(data)
    if size < 8:
        raise WeightsError(f"{path}: expected a safetensors file, got {size} bytes")
    (length,) = struct.unpack_from("<Q", data)
    if length > _HEADER_LIMIT or 8 + length > size:
        raise WeightsError(
            f"{path}: the header claims {length} bytes, expected at most {_HEADER_LIMIT} and no more than the file has"
        )
    return _parse(path, bytes(data[8 : 8 + length])), 8 + length


def is_own(path: Path) -> bool:
    """Whether a safetensors file has this package's header. Also True if the header is unreadable."""
    with open_file(path) as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 2 <= length <= _HEADER_LIMIT else b""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # reading the file reports the error
        return True
    metadata = found.get("__metadata__") if isinstance(found, dict) else None
    if not isinstance(found, dict) or metadata is None:
        return not isinstance(found, dict)
    return isinstance(metadata, dict) and metadata.get("format") == "fastmnv2"


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise WeightsError(f"{path}: the header names a key twice")
        return found

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{path}: the header is a JSON {type(header).__name__}, expected an object")
    return header


def _metadata(path: Path, found: Any) -> dict[str, str]:
    keys: tuple[str, ...] = ("format", "format_version", "source", "source_form", "source_sha256", "notes")
    if not isinstance(found, dict) or found.get("format") != "fastmnv2":
        raise WeightsError(f"{path}: expected a safetensors file with fastmnv2's __metadata__, got another one")
    version = found.get("format_version")
    if version not in (FORMAT_VERSION, _WITH_AROUND, _WITH_NETWORK):
        raise WeightsError(
            f"{path}: expected format version {FORMAT_VERSION}, {_WITH_AROUND} or {_WITH_NETWORK}, got {version!r}; "
            "convert the original again, or use a newer fastmnv2"
        )
    keys += ("around",) if version == _WITH_AROUND else ()
    keys += ("network",) if version == _WITH_NETWORK else ()
    keys += ("around",) if version == _WITH_NETWORK and "around" in found else ()
    if not all(isinstance(found.get(key), str) for key in keys):
        raise WeightsError(f"{path}: __metadata__ must have the strings {', '.join(keys)}")
    if found.get("precision", "int8") != "int8":
        raise WeightsError(f"{path}: __metadata__: expected no precision or 'int8', got {found['precision']!r}")
    try:
        notes = json.loads(found["notes"])
    except (ValueError, RecursionError):
        notes = None
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise WeightsError(f"{path}: __metadata__: notes is not a JSON list of strings")
    if not re.fullmatch(r"([0-9a-f]{64})?", found["source_sha256"]):
        raise WeightsError(f"{path}: __metadata__: expected source_sha256 to be 64 hexadecimal digits or empty")
    return found


def _network(path: Path, metadata: dict[str, str]) -> Network:
    """The network that the metadata name, or the default one."""
    if metadata["format_version"] != _WITH_NETWORK:
        return DEFAULT
    try:
        entry = json.loads(metadata["network"])
        multiplier, height, width = (entry[name] for name in ("multiplier", "height", "width"))
        if type(multiplier) is not float or type(height) is not int or type(width) is not int:
            raise ValueError("expected numbers")
        return of(multiplier, height, width)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(
            f"{path}: __metadata__: network: expected multiplier, height and width of a network, got "
            f"{metadata['network'][:200]!r}: {error}"
        ) from error


def _entries(
    path: Path, header: dict[str, Any], allowed: Allowed, *, with_head: bool
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...], int, int]]:
    entries = {}
    for name, entry in header.items():
        if name not in allowed and not (with_head and name.startswith(head.PREFIX)):
            raise WeightsError(f"{path}: unexpected tensor {name!r}")
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise WeightsError(f"{path}: {name}: expected dtype, shape and data_offsets")
        types, shapes_of = allowed.get(name) or (("F32",), (_head_shape(path, name, entry["shape"]),))
        if entry["dtype"] not in types or entry["shape"] not in [list(shape) for shape in shapes_of]:
            expected = " or ".join(f"{' or '.join(types)} {list(shape)}" for shape in shapes_of)
            raise WeightsError(f"{path}: {name}: expected {expected}, got {entry['dtype']!r} {entry['shape']!r}")
        offsets = entry["data_offsets"]
        if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(at) is int and at >= 0 for at in offsets)):
            raise WeightsError(f"{path}: {name}: data_offsets must be two offsets, got {offsets!r}")
        entries[name] = (np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"]), offsets[0], offsets[1])
    return entries


def _head_shape(path: Path, name: str, found: Any) -> tuple[int, ...]:
    """The shape of a head's tensor according to the file, if it is plausible; the head checks it later."""
    possible = (
        isinstance(found, list) and len(found) in (1, 2) and all(type(edge) is int and edge > 0 for edge in found)
    )
    if not possible or math.prod(found) > head.LIMIT:
        raise WeightsError(
            f"{path}: {name}: expected one or two dimensions and at most {head.LIMIT} values, got {found!r}"
        )
    return tuple(found)
