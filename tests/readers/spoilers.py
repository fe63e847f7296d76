"""Helpers that put one error into a good file, and check that readers raise a WeightsError for it."""

import io
import json
import struct
import tarfile

import pytest

from fastmnv2.core.errors import WeightsError
from fastmnv2.weights import read
from fastmnv2.weights.fold import fold


def refused(path, message="."):
    """Check that reading raises a WeightsError that names the file and matches ``message``; return the error."""
    with pytest.raises(WeightsError, match=message) as caught:
        fold(read(path))
    assert str(path.name) in str(caught.value) or str(path) in str(caught.value)
    return caught.value


def spoil_header(source, target, change):
    """Copy a safetensors file with its header changed by ``change``, which may return the new header as bytes."""
    data = source.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    text = change(header)
    text = text if isinstance(text, bytes) else json.dumps(header).encode()
    target.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return target


def entry(header, number):
    """The header's entry of the tensor with this number, in alphabetical order."""
    return header[sorted(name for name in header if name != "__metadata__")[number]]


def tar_with(path, *members):
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def member(name, size=0, **fields):
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in fields.items():
        setattr(info, key, value)
    return info
