"""TensorFlow's tensor bundles: ``<prefix>.index`` and ``<prefix>.data-00000-of-00001``.

The index is a LevelDB table (footer with magic db4775248b80fb57, prefix-coded blocks, masked CRC-32C) whose
values are protocol buffers: BundleHeaderProto under the empty key, BundleEntryProto under each tensor's
name (tensorflow/core/protobuf/tensor_bundle.proto). The data files are raw little-endian arrays.
"""

import math
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core import _engine
from fastmnv2.core.errors import WeightsError
from fastmnv2.weights.files import exists, file_sha256, open_file, read_file
from fastmnv2.weights.tensors import from_bfloat16

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
# Limits for malformed files. An index with every optimiser slot has 60 KB, 800 tensors and names of 100 characters.
# The widest network's variables have 44 MB, or twice that if an export lists them twice.
_INDEX_LIMIT = 1 << 20
_RECORDS_LIMIT = 20_000
_NAME_LIMIT = 1000
_DIMS_LIMIT = 8
_TENSORS_LIMIT = 96 << 20
_STRING_LIMIT = 1 << 20
_SHARDS_LIMIT = 1000
_DT_STRING = 7
BFLOAT16 = 14
FLOATS = {1: "<f4", 2: "<f8", BFLOAT16: "<u2", 19: "<f2"}
"""numpy's dtypes of TensorFlow's floats by their numbers in types.proto. bfloat16 is read as bits."""


class Entry(NamedTuple):
    """Where a tensor is stored: ``size`` bytes from ``offset`` of shard ``shard``."""

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
    """One checked block of a LevelDB table; its compression type and checksum follow it in the file."""
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
        if shared + unshared > _NAME_LIMIT:
            raise ValueError(f"a name has {shared + unshared} bytes, expected at most {_NAME_LIMIT}")
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
                    if len(shape) == _DIMS_LIMIT:
                        raise ValueError(f"a tensor has more than {_DIMS_LIMIT} dimensions")
                    shape.append(next((int(n) for f, n in fields(dim) if f == 1 and isinstance(n, int)), 0))
        elif number == 7:
            raise ValueError("a tensor is stored in slices, expected complete tensors")
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


class Bundle:
    """An opened bundle. Raises ValueError if the index, or a tensor that is read, is malformed.

    Attributes:
        entries: where each tensor is stored, by name.
        shards: the number of data files.
    """

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self.entries: dict[str, Entry] = {}
        self.shards = 0
        path = prefix.with_name(prefix.name + ".index")
        if not exists(path):
            raise WeightsError(f"{prefix}: expected a tensor bundle, but there is no {path.name}")
        for key, value in _table(read_file(path, _INDEX_LIMIT), path.name):
            if key:
                self.entries[key.decode()] = _entry(value)
            else:
                self._read_header(value)
        if not 1 <= self.shards <= _SHARDS_LIMIT:
            raise ValueError(f"the bundle has {self.shards} shards, expected 1 to {_SHARDS_LIMIT}")

    def _read_header(self, message: bytes) -> None:
        for number, value in fields(message):
            if number == 1 and isinstance(value, int):
                self.shards = value
            if number == 2 and value:
                raise ValueError("the bundle is big-endian, expected little-endian")

    def _shard(self, number: int) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}.data-{number:05d}-of-{self.shards:05d}")

    def _read_bytes(self, name: str, entry: Entry) -> bytes:
        path = self._shard(entry.shard)
        with open_file(path) as file:
            available = os.fstat(file.fileno()).st_size
            if entry.offset + entry.size > available:
                raise ValueError(
                    f"{name}: bytes {entry.offset} to {entry.offset + entry.size} lie outside {path.name} "
                    f"({available} bytes)"
                )
            file.seek(entry.offset)
            data = file.read(entry.size)
        if len(data) != entry.size:
            raise ValueError(f"{name}: {path.name} ended early")
        if entry.dtype != _DT_STRING and _engine.crc32c(data) != _unmasked(entry.crc):
            raise ValueError(f"{name}: the bytes in {path.name} do not match their checksum")
        return data

    def tensors(self, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The tensors with these names, which must be float32, float64, float16 or bfloat16, as float32."""
        tensors = {}
        total = 0
        for name in names:
            entry = self.entries[name]
            if entry.dtype not in FLOATS:
                raise ValueError(f"{name}: expected floats (dtype {', '.join(map(str, FLOATS))}), got {entry.dtype}")
            dtype = np.dtype(FLOATS[entry.dtype])
            needed = math.prod(entry.shape) * dtype.itemsize
            if needed != entry.size:
                raise ValueError(f"{name}: shape {list(entry.shape)} needs {needed} bytes, got {entry.size}")
            total += entry.size
            if total > _TENSORS_LIMIT:  # tensors may overlap, so the size of the files does not limit them
                raise ValueError(f"{name}: the network's tensors take more than {_TENSORS_LIMIT} bytes")
            values = np.frombuffer(self._read_bytes(name, entry), dtype).reshape(entry.shape)
            with np.errstate(over="ignore"):  # folding refuses infinite values
                tensors[name] = from_bfloat16(values) if entry.dtype == BFLOAT16 else values.astype("<f4", copy=False)
        return tensors

    def string(self, name: str) -> bytes:
        """The bytes of a scalar string tensor, which follow their length as a varint and a checksum."""
        entry = self.entries[name]
        if entry.size > _STRING_LIMIT:
            raise ValueError(f"{name}: {entry.size} bytes, expected at most {_STRING_LIMIT}")
        data = self._read_bytes(name, entry)
        length, at = _varint(data, 0)
        if at + 4 + length != len(data):
            raise ValueError(f"{name}: expected one string of {length} bytes, got {len(data)} bytes")
        return data[at + 4 :]

    def sha256(self) -> str:
        """SHA-256 of the data files, in order."""
        return file_sha256(*map(self._shard, range(self.shards)))


def _table(table: bytes, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table."""
    if len(table) < _FOOTER or struct.unpack_from("<Q", table, len(table) - 8)[0] != _MAGIC:
        raise ValueError(f"{name} is not a tensor bundle's index (no table magic at its end)")
    footer = table[-_FOOTER:]
    _, at = _varint(footer, _varint(footer, 0)[1])  # the meta index is not used
    remaining, records = len(table), 0
    for _, handle in _records(_block(table, *_handle(footer[at:]))):
        offset, size = _handle(handle)
        remaining -= size
        if remaining < 0:
            raise ValueError(f"the blocks of {name} overlap")
        for record in _records(_block(table, offset, size)):
            records += 1
            if records > _RECORDS_LIMIT:
                raise ValueError(f"{name} has more than {_RECORDS_LIMIT} records")
            yield record
