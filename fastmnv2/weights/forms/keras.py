"""Keras weights of ``keras.applications.MobileNetV2``, alone or inside a fine-tuned model.

There are three containers: legacy HDF5 (``<layer>/<layer>/kernel:0``), Keras 3 HDF5 (``layers/conv2d_7/vars/0``; the
layer's name is an attribute of ``vars``) and ``.keras``, a zip that contains Keras 3 HDF5.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import WeightsError, printable
from fastmnv2.core.head import Head, named
from fastmnv2.core.network import DEFAULT
from fastmnv2.weights.files import file_sha256, open_file
from fastmnv2.weights.forms import hdf5, keras_graph, keras_names
from fastmnv2.weights.tensors import Source

# Limits for malformed files. The widest network's variables have 44 MB, or three times that with an optimiser's
# variables. Its configuration has 100 KB.
_ARCHIVE_LIMIT = 160 << 20
_DIRECTORY_LIMIT = 64 << 10
_CONFIG_LIMIT = 2 << 20
_NAME_LIMIT = 200
_CLASSES_LIMIT = 1 << 20

CLASSES_MEMBER = "classes.json"
"""The member that this package adds to a .keras file: a JSON list of the classes' names."""


def read(path: Path) -> Source:
    """Read an HDF5 file: legacy weights, a complete legacy model, or ``.weights.h5``."""
    with open_file(path) as file:
        content = hdf5.read(file, str(path))
    config = _parsed(content.config, str(path)) if content.config is not None else None
    return _source(str(path), file_sha256(path), config, content)


def read_archive(path: Path) -> Source:
    """Read a ``.keras`` file: a zip with ``config.json``, ``model.weights.h5``, and our ``classes.json`` if present."""
    import tempfile

    with open_file(path) as file, tempfile.TemporaryFile() as weights:
        _check_directory(file, path)
        archive = ZipFile(file)
        if any(name.endswith("data.pkl") for name in archive.namelist()):
            raise WeightsError(f"{path}: this is a pickle of PyTorch's, which is never read; save it as .safetensors")
        for name in ("config.json", "model.weights.h5"):
            if archive.namelist().count(name) != 1:
                raise WeightsError(f"{path}: expected one {name} in the archive, as a .keras file has")
            # For other methods, zipfile does not limit the bytes that each read unpacks.
            if archive.getinfo(name).compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                raise WeightsError(f"{path}: {name} is compressed in an unusual way, expected stored or deflated")
        with archive.open("config.json") as member:
            config = _parsed(member.read(_CONFIG_LIMIT + 1), str(path))
        with archive.open("model.weights.h5") as member:
            while chunk := member.read(1 << 20):
                weights.write(chunk)
                if weights.tell() > _ARCHIVE_LIMIT:
                    raise WeightsError(f"{path}: model.weights.h5 unpacks to more than {_ARCHIVE_LIMIT} bytes")
        weights.seek(0)
        content = hdf5.read(weights, str(path))
        classes = _classes(archive, path)
    found = _source(str(path), file_sha256(path), config, content)
    return dataclasses.replace(found, head=named(found.head, classes)) if found.head else found


def _classes(archive: ZipFile, path: Path) -> list[str] | None:
    if archive.namelist().count(CLASSES_MEMBER) != 1:
        return None
    if archive.getinfo(CLASSES_MEMBER).compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise WeightsError(f"{path}: {CLASSES_MEMBER} is compressed in another way than stored or deflated")
    with archive.open(CLASSES_MEMBER) as member:
        text = member.read(_CLASSES_LIMIT + 1)
    try:
        classes = json.loads(text) if len(text) <= _CLASSES_LIMIT else None
    except (ValueError, RecursionError):
        classes = None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise WeightsError(f"{path}: {CLASSES_MEMBER}: expected a JSON list of names")
    return classes


def read_model(model: Any) -> Source:
    """Read a Keras model in memory; it need not be compiled."""
    import hashlib

    origin = f"the Keras model {printable(str(model.name), 100)}"
    variables: dict[str, NDArray[Any]] = {}
    pending, seen = [(layer, "") for layer in model.layers], set[int]()
    while pending:
        layer, place = pending.pop()
        if id(layer) in seen:  # a model may be used twice
            continue
        seen.add(id(layer))
        pending += [(inner, f"{place}/{layer.name}") for inner in getattr(layer, "layers", ())]
        adapted = getattr(layer, "lora_enabled", False)  # then the kernel's variable is only a part of the kernel
        for weight in () if hasattr(layer, "layers") else layer.weights:
            values = np.asarray(layer.kernel if adapted and weight.name == "kernel" else weight)
            path = f"{layer.name}/{weight.name}"
            path = path if path not in variables else f"{place}/{path}"  # the same name in another model
            if values.dtype.kind == "f" or values.dtype.name == "bfloat16":  # not a quantised layer's integers
                variables[path] = np.ascontiguousarray(values, np.float32)
    variables = {plain: variables[path] for plain, path in keras_names.plain_paths(variables).items()}
    used = {path: values for path, values in variables.items() if keras_names.is_variable(path)}
    others = {path: values for path, values in variables.items() if path not in used}
    text = model.to_json()
    digest = hashlib.sha256(text.encode() + b"".join(values.tobytes() for values in variables.values())).hexdigest()
    return _source(origin, digest, _parsed(text, origin), hdf5.Content(None, used, dict(others)))


def _check_directory(file: IO[bytes], path: Path) -> None:
    """Refuse a zip with far more entries than a .keras file has: zipfile would make an object for each."""
    size = file.seek(0, 2)
    file.seek(max(0, size - (1 << 16) - 22 - 20))  # the longest comment, the record below, and zip64's locator
    tail = file.read()
    end = tail.rfind(b"PK\5\6")  # the end of central directory record; its field at 12 is the directory's size
    if end < 0 or end + 22 > len(tail):
        raise WeightsError(f"{path}: expected a .keras file, but the archive has no directory")
    directory = int.from_bytes(tail[end + 12 : end + 16], "little")
    if directory > _DIRECTORY_LIMIT or tail[max(0, end - 20) : end].startswith(b"PK\6\7"):
        raise WeightsError(
            f"{path}: the archive's directory has {directory} bytes, expected at most {_DIRECTORY_LIMIT}"
        )


def _source(origin: str, sha256: str, config: Any, content: hdf5.Content) -> Source:
    """Build a Source from a model's configuration (None if there is none) and its variables."""
    tensors, notes = keras_names.from_variables(content.variables.items(), origin)
    graph, size, even_maps, others = None, None, False, dict(content.others)
    if DEFAULT.logits.weights_name not in tensors:
        others |= {path: values for path, values in content.variables.items() if keras_names.is_top(path)}
    if config is not None:
        _check_layers(config, origin)
        size = _image_size(config)
        even_maps = size is None and _pads_even_maps(config)
        graph = keras_graph.around(config, size)
        size = graph.size if graph else size
    if graph is None:
        layers = sorted({path.rpartition("/")[0] for path in others})
        if layers:
            shown = ", ".join(layers[:5]) + (", …" if len(layers) > 5 else "")
            notes.append(f"{len(layers)} other layers are ignored, because the file has no graph: {shown}")
        return Source("keras", origin, sha256, tensors, tuple(notes), size=size, even_maps=even_maps)
    head: Head | None = None
    head_error = graph.head_error
    if not head_error:
        try:
            last = tensors.get(DEFAULT.head.weights_name)
            features = DEFAULT.features if last is None else last.shape[-1]
            places: dict[str, set[str]] = {}
            for path, name in keras_names.saved_paths(config).items():
                places.setdefault(name, set()).add(path)
            head = keras_graph.head(graph, lambda layer: _variables_of(layer, others, places.get(layer)), features)
        except ValueError as error:
            head_error = str(error)
    if head is not None and DEFAULT.logits.weights_name in tensors:
        head_error = f"the layer {head.steps[0].name} comes after the ImageNet classes and can't be run"
        head = None
    return Source(
        "keras",
        origin,
        sha256,
        tensors,
        tuple(notes),
        input_range=graph.input_range,
        input_error=graph.input_error,
        head=head,
        head_error=head_error,
        size=size,
        even_maps=even_maps,
    )


def _variables_of(
    layer: str, others: dict[str, NDArray[np.float32] | None], places: set[str] | None = None
) -> dict[str, NDArray[np.float32]]:
    """A layer's variables by the last part of their names, if unique. ``places``: its paths in files without names."""
    found: dict[str, list[NDArray[np.float32] | None]] = {}
    for path, values in others.items():
        parent, _, name = path.removesuffix(":0").rpartition("/")
        if layer in (parent, parent.rpartition("/")[2]) and not parent.startswith("layers/"):
            found.setdefault(name, []).append(values)
    if not found:
        for path, values in others.items():
            parent, _, name = path.rpartition("/")
            if re.sub("^_layer_checkpoint_dependencies/", "layers/", parent) in (places or ()):
                found.setdefault(name, []).append(values)
    return {name: values[0] for name, values in found.items() if len(values) == 1 and values[0] is not None}


def _parsed(text: str | bytes, origin: str) -> Any:
    if len(text) > _CONFIG_LIMIT:
        raise WeightsError(f"{origin}: the model's configuration has more than {_CONFIG_LIMIT} bytes")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{origin}: the model's configuration is not JSON: {error}") from error


def _layer_names(config: Any) -> set[str]:
    """All values of "name" in a configuration, which include its layers' names."""
    found: set[str] = set()
    pending = [config]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            name = node.get("name")
            if isinstance(name, str) and len(name) <= _NAME_LIMIT:
                found.add(name)
            pending += node.values()
        elif isinstance(node, list):
            pending += node
    return found


def _image_size(config: Any) -> tuple[int, int] | None:
    """Image height and width of the model with the first convolution; None if it leaves them open."""
    plain = keras_names.plain_names(_layer_names(config))
    pending = [config]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            pending += node.values()
        if not isinstance(node, list):
            continue
        pending += node
        layers = [item for item in node if isinstance(item, dict) and isinstance(item.get("config"), dict)]
        if not any(plain.get(str(layer["config"].get("name"))) == "Conv1" for layer in layers):
            continue
        for layer in layers:
            shape = layer["config"].get("batch_shape", layer["config"].get("batch_input_shape"))
            if layer.get("class_name") == "InputLayer" and isinstance(shape, list) and len(shape) == 4:
                edges = [edge for edge in shape[1:3] if isinstance(edge, int)]
                return (edges[0], edges[1]) if len(edges) == 2 else None
    return None


def _layers(config: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The kind, name and configuration of each layer, at any depth."""
    pending = [config]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        if not isinstance(node, dict):
            continue
        pending += node.values()
        own = node.get("config")
        name = own.get("name") if isinstance(own, dict) else None
        if isinstance(own, dict) and isinstance(name, str) and len(name) <= _NAME_LIMIT:
            yield str(node.get("class_name")), name, own


def _pads_even_maps(config: Any) -> bool:
    """Whether the model's layers pad even maps as the network does, but not odd maps.

    Keras pads odd maps by (1, 1), as the network does, only if it knows their size when it builds the model
    (``imagenet_utils.correct_pad``).
    """
    return any(kind == "ZeroPadding2D" and own.get("padding") == [[0, 1], [0, 1]] for kind, _, own in _layers(config))


def _check_layers(config: Any, origin: str) -> None:
    """Check that layers with the network's names compute what the network does: strides, ReLU6 and epsilon."""
    names = _layer_names(config)
    plain, prefix = keras_names.plain_names(names), keras_names.prefix_of(names)
    for kind, name, own in _layers(config):
        expected: dict[str, tuple[Any, ...]] = {}
        if kind == "BatchNormalization" and name in plain:
            expected["epsilon"] = (DEFAULT.epsilon,)
        elif kind == "ReLU" and keras_names.layer_of(name.removeprefix(prefix).removesuffix("_relu")):
            expected["max_value"] = (6,)
        elif kind in ("Conv2D", "DepthwiseConv2D") and (layer := keras_names.layer_of(plain.get(name, ""))):
            stride = layer.stride
            expected = {"strides": (stride, [stride] * 2, None), "dilation_rate": (1, [1, 1], None)}
        for key, values in expected.items():
            found = own.get(key)
            close = isinstance(found, float) and isinstance(values[0], float) and abs(found - values[0]) <= 1e-9
            if found not in values and not close:
                raise WeightsError(f"{origin}: {name}: expected {key} {values[0]}, got {found!r}")
