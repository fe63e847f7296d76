"""TensorFlow's tensor bundles: ``<prefix>.index`` and ``<prefix>.data-00000-of-00001``.

The index is a LevelDB table (footer with magic db4775248b80fb57, prefix-coded blocks, masked CRC-32C) whose
values are protocol buffers: BundleHeaderProto under the empty key, BundleEntryProto under each tensor's
name (tensorflow/core/protobuf/tensor_bundle.proto). The data files are raw little-endian arrays.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmnv2 import _engine
from fastmnv2.errors import WeightsError

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_INDEX_LIMIT = 16 << 20
_TENSOR_LIMIT = 64 << 20
_SHARDS_LIMIT = 1000
_DT_FLOAT, _DT_STRING = 1, 7


class Entry(NamedTuple):
    """Where a tensor lies: ``size`` bytes from ``offset`` of shard ``shard``."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a varint runs past its end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a serialised protocol buffer; length-delimited values as bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            if at + size > len(message):
                raise ValueError("a fixed-size field runs past its message")
            value = int.from_bytes(message[at : at + size], "little")
            at += size
        elif kind == 2:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("a field runs past its message")
            value = message[at : at + size]
            at += size
        else:
            raise ValueError(f"unknown wire type {kind}")
        yield tag >> 3, value


def _unmasked(crc: int) -> int:
    rotated = (crc - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def _block(table: bytes, offset: int, size: int) -> bytes:
    """One checked block of a LevelDB table; behind it stand its compression type and its checksum."""
    if offset + size + 5 > len(table):
        raise ValueError(f"a block of {size} bytes at {offset} runs past the end of the index")
    body = table[offset : offset + size + 1]
    (stored,) = struct.unpack_from("<I", table, offset + size + 1)
    if _engine.crc32c(body) != _unmasked(stored):
        raise ValueError(f"the block at {offset} of the index does not match its checksum")
    if body[-1] != 0:
        raise ValueError(f"the block at {offset} of the index is compressed (type {body[-1]}), expected none")
    return body[:-1]


def _records(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block: each key shares a prefix with the one before it."""
    if len(block) < 4:
        raise ValueError("a block of the index is too short")
    (restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise ValueError("a block of the index has more restarts than bytes")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + unshared + length > end:
            raise ValueError("a record runs past its block")
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key, block[at : at + length]
        at += length


def _handle(data: bytes) -> tuple[int, int]:
    offset, at = _varint(data, 0)
    size, _ = _varint(data, at)
    return offset, size


def _entry(message: bytes) -> Entry:
    dtype = shard = offset = size = crc = 0
    shape: list[int] = []
    for number, value in fields(message):
        if number == 2 and isinstance(value, bytes):
            for inner, dim in fields(value):
                if inner == 2 and isinstance(dim, bytes):
                    shape.append(next((int(n) for f, n in fields(dim) if f == 1 and isinstance(n, int)), 0))
        elif number == 7:
            raise ValueError("a tensor is stored in slices, expected whole ones")
        elif isinstance(value, int):
            if number == 1:
                dtype = value
            elif number == 3:
                shard = value
            elif number == 4:
                offset = value
            elif number == 5:
                size = value
            elif number == 6:
                crc = value
    return Entry(dtype, tuple(shape), shard, offset, size, crc)


def read_index(path: Path) -> tuple[dict[str, Entry], int]:
    """All entries of an ``.index`` file by tensor name, and the number of shards. Raises ValueError."""
    if path.stat().st_size > _INDEX_LIMIT:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, expected at most {_INDEX_LIMIT}")
    table = path.read_bytes()
    if len(table) < _FOOTER or struct.unpack_from("<Q", table, len(table) - 8)[0] != _MAGIC:
        raise ValueError(f"{path.name} is not a tensor bundle's index (no table magic at its end)")
    footer = table[-_FOOTER:]
    _, at = _varint(footer, _varint(footer, 0)[1])  # the meta index is not used
    index = _block(table, *_handle(footer[at:]))
    entries: dict[str, Entry] = {}
    shards = 0
    for _, handle in _records(index):
        for key, value in _records(_block(table, *_handle(handle))):
            if key:
                entries[key.decode()] = _entry(value)
                continue
            for number, number_value in fields(value):
                if number == 1 and isinstance(number_value, int):
                    shards = number_value
                if number == 2 and number_value:
                    raise ValueError("the bundle is big-endian, expected little-endian")
    if not 1 <= shards <= _SHARDS_LIMIT:
        raise ValueError(f"the bundle has {shards} shards, expected 1 to {_SHARDS_LIMIT}")
    return entries, shards


def _read_bytes(prefix: Path, shards: int, name: str, entry: Entry) -> bytes:
    path = prefix.with_name(f"{prefix.name}.data-{entry.shard:05d}-of-{shards:05d}")
    available = path.stat().st_size
    if entry.size > _TENSOR_LIMIT or entry.offset + entry.size > available:
        raise ValueError(
            f"{name}: bytes {entry.offset} to {entry.offset + entry.size} lie outside {path.name} ({available} bytes)"
        )
    with path.open("rb") as file:
        file.seek(entry.offset)
        data = file.read(entry.size)
    if len(data) != entry.size:
        raise ValueError(f"{name}: {path.name} ended early")
    if entry.dtype != _DT_STRING and _engine.crc32c(data) != _unmasked(entry.crc):
        raise ValueError(f"{name}: the bytes in {path.name} do not match their checksum")
    return data


def read_tensors(prefix: Path, wanted: Callable[[str], bool]) -> dict[str, NDArray[np.float32]]:
    """The float32 tensors whose names are ``wanted``; others are not read. Raises ValueError."""
    entries, shards = read_index(prefix.with_name(prefix.name + ".index"))
    tensors = {}
    for name, entry in entries.items():
        if not wanted(name):
            continue
        if entry.dtype != _DT_FLOAT:
            raise ValueError(f"{name}: expected float32 (dtype 1), got dtype {entry.dtype}")
        count = 1
        for dim in entry.shape:
            count *= dim
        if count * 4 != entry.size:
            raise ValueError(f"{name}: shape {list(entry.shape)} needs {count * 4} bytes, got {entry.size}")
        tensors[name] = np.frombuffer(_read_bytes(prefix, shards, name, entry), "<f4").reshape(entry.shape)
    return tensors


def read_string(prefix: Path, name: str) -> bytes | None:
    """A scalar string tensor (its length as a varint, a checksum, its bytes), None where there is none."""
    entries, shards = read_index(prefix.with_name(prefix.name + ".index"))
    if name not in entries:
        return None
    data = _read_bytes(prefix, shards, name, entries[name])
    length, at = _varint(data, 0)
    if at + 4 + length != len(data):
        raise ValueError(f"{name}: expected one string of {length} bytes, got {len(data)} bytes")
    return data[at + 4 :]


def sha256(prefix: Path) -> str:
    """Of the data files, in order."""
    _, shards = read_index(prefix.with_name(prefix.name + ".index"))
    digest = hashlib.sha256()
    for shard in range(shards):
        with prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def check_prefix(prefix: Path) -> None:
    """Raises WeightsError unless the index of ``prefix`` is there."""
    if not prefix.with_name(prefix.name + ".index").is_file():
        raise WeightsError(f"{prefix}: expected a tensor bundle, but there is no {prefix.name}.index")
