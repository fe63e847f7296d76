"""Hugging Face's MobileNet V2: a folder with ``config.json`` and ``model.safetensors``, or its name on the hub.

Tensors have PyTorch's layouts and the names of transformers' MobileNetV2ForImageClassification. Pickles are never read.
"""

import contextlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import WeightsError, WeightsUnavailable, is_this_machines
from fastmnv2.core.head import LIMIT as HEAD_LIMIT
from fastmnv2.core.head import Head, Step
from fastmnv2.core.network import BATCH_NORM, DEFAULT
from fastmnv2.weights.files import file_sha256, read_block, read_file
from fastmnv2.weights.forms import native
from fastmnv2.weights.forms.slim_names import slim_name
from fastmnv2.weights.names import size_in
from fastmnv2.weights.tensors import Source, Tensors, from_bfloat16, range_of

SCHEME = "hf://"
CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
_USUAL_SIZE = 224  # MobileNetV2Config's default
_FILE_LIMIT = 128 << 20
_CONFIG_LIMIT = 1 << 20
_VALUES_LIMIT = 24 << 20  # the widest network has 10.8 million
_TYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}
_NAME = re.compile(
    r"(?:mobilenet_v2\.)?(?:(?P<stem>conv_stem\.first_conv|conv_1x1)|conv_stem\.(?P<first>conv_3x3|reduce_1x1)|"
    r"layer\.(?P<block>\d{1,2})\.(?P<part>expand_1x1|conv_3x3|reduce_1x1))\."
    r"(?:convolution\.(?P<kernel>weight)|normalization\.(?P<norm>weight|bias|running_mean|running_var))"
)
_PARTS = {"expand_1x1": "expand", "conv_3x3": "depthwise", "reduce_1x1": "project"}
_NORM = dict(zip(("weight", "bias", "running_mean", "running_var"), BATCH_NORM, strict=True))
_EXPECTED = {
    "model_type": "mobilenet_v2", "tf_padding": True, "output_stride": 32, "expand_ratio": 6, "depth_divisible_by": 8,
    "hidden_act": "relu6", "layer_norm_eps": DEFAULT.epsilon, "first_layer_is_expansion": True, "num_channels": 3,
}  # fmt: skip


def read(folder: Path, *, origin: str | None = None) -> Source:
    """Read a folder with ``config.json`` and ``model.safetensors``. Raises WeightsError."""
    origin = origin or str(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise WeightsError(
            f"{origin}: expected a {WEIGHTS} next to {CONFIG}; pickles such as pytorch_model.bin are never read: save "
            "the model with transformers' save_pretrained(..., safe_serialization=True)"
        )
    config = _json(folder / CONFIG, origin)
    for key, expected in _EXPECTED.items():
        if config.get(key, expected) != expected:
            raise WeightsError(
                f"{origin}: {CONFIG}: {key}: expected {expected!r}, got {config[key]!r}, which is another network"
            )
    size = _size(config, folder, origin)
    labels = _labels(config)
    input_range, input_error = _range(folder / PREPROCESSOR, origin)
    return _source(path, origin, labels, size, input_range, input_error)


def read_file_alone(path: Path) -> Source:
    """Read a ``.safetensors`` file that another program wrote, with transformers' or TF-Slim's names."""
    if path.name == WEIGHTS and (path.parent / CONFIG).is_file():
        return read(path.parent)
    return _source(path, str(path), None, None, None, "")


def fetched(name: str, *, download: bool) -> Path:
    """The folder of ``hf://organisation/name`` or ``…@revision`` in huggingface_hub's cache, downloaded if allowed.

    Raises:
        ImportError: if huggingface_hub is not installed.
        WeightsUnavailable: if it is not in the cache and can't be downloaded.
        WeightsError: if the name does not exist on the hub, or has no safetensors file.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        message = f"{name}: needs huggingface_hub: pip install 'fastmnv2[hf]'"
        raise ImportError(message, name="huggingface_hub") from error
    place, _, revision = name.removeprefix(SCHEME).strip("/").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", place):
        raise WeightsError(f"{name}: expected {SCHEME}organisation/name")
    offline = not download or os.environ.get("FASTMNV2_OFFLINE", "0") not in ("", "0")

    def get(file: str) -> Path:
        found = huggingface_hub.hf_hub_download(place, file, revision=revision or None, local_files_only=offline)
        return Path(found)

    try:
        folder = get(CONFIG).parent
        get(WEIGHTS)
        with contextlib.suppress(errors.EntryNotFoundError):  # without this file, the usual input range is assumed
            get(PREPROCESSOR)
    except (errors.EntryNotFoundError, errors.RepositoryNotFoundError) as error:
        if not isinstance(error, errors.LocalEntryNotFoundError):
            raise WeightsError(f"{name}: no {CONFIG} and {WEIGHTS} there: {_short(error)}") from error
        raise WeightsUnavailable(
            f"{name}: not in huggingface_hub's cache, and "
            f"{'downloads are disabled' if offline else 'it could not be downloaded'}: {_short(error)}"
        ) from error
    except Exception as error:  # whatever its HTTP library raises
        if is_this_machines(error):
            raise
        raise WeightsUnavailable(f"{name}: could not be downloaded: {_short(error)}") from error
    return folder


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _json(path: Path, origin: str) -> dict[str, Any]:
    try:
        found = json.loads(read_file(path, _CONFIG_LIMIT))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{origin}: {path.name}: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{origin}: {path.name}: expected a JSON object")
    return found


def _labels(config: dict[str, Any]) -> list[str] | None:
    """The classes' names in order; None if a name is missing."""
    named = config.get("id2label")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        return None
    names = [named.get(str(index)) for index in range(len(named))]
    return None if None in names else [str(name) for name in names]


def _size(config: dict[str, Any], folder: Path, origin: str) -> tuple[int, int]:
    """Height and width of images: the configuration's, or else those in the folder's name, or transformers' default."""
    told = config.get("image_size")
    if told is None:
        return size_in(folder) or (_USUAL_SIZE, _USUAL_SIZE)
    edges = told if isinstance(told, list) else [told, told]
    if len(edges) != 2 or not all(type(edge) is int for edge in edges):
        raise WeightsError(f"{origin}: {CONFIG}: image_size: expected a number or [height, width], got {told!r}")
    return edges[0], edges[1]


def _range(path: Path, origin: str) -> tuple[tuple[float, float] | None, str]:
    """The input range, and why the network can't run on it, or ""."""
    if not path.is_file():
        return None, ""
    settings = _json(path, origin)
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    mean, std = ([0.0] * 3, [1.0] * 3)
    if settings.get("do_normalize", True):
        mean, std = settings.get("image_mean", [0.5] * 3), settings.get("image_std", [0.5] * 3)
    numbers = [*mean, *std, factor] if isinstance(mean, list) and isinstance(std, list) else [None]
    if not all(isinstance(value, (int, float)) for value in numbers) or len(numbers) != 7 or not all(std):
        return None, f"{PREPROCESSOR}: expected a mean and a std of three channels"
    if len(set(mean)) > 1 or len(set(std)) > 1:
        return None, f"{PREPROCESSOR} normalises channels differently; pass input_range= to set one range for all"
    found = range_of(factor / std[0], -mean[0] / std[0], pixels=True)
    return found, "" if found else f"{PREPROCESSOR}: its normalisation destroys the picture"


def _source(
    path: Path,
    origin: str,
    labels: list[str] | None,
    size: tuple[int, int] | None,
    input_range: tuple[float, float] | None,
    input_error: str,
) -> Source:
    arrays = _arrays(path, origin)
    tensors: Tensors = {}
    for name, values in arrays.items():
        plain = slim_name(name)
        if plain is not None and (not plain.endswith("/biases") or plain == DEFAULT.logits.biases_name):
            tensors[plain] = values  # without folded biases, which only a native file without its metadata has
        elif found := _NAME.fullmatch(name):
            scope = _scope(found)
            tensors[_tensor_name(scope, found)] = _slim_layout(values, scope) if found["kernel"] else values
    if not tensors:
        raise WeightsError(f"{origin}: expected tensors with transformers' or TF-Slim's names, {_others(arrays)}")
    head = _classifier(arrays, tensors, labels, origin)
    imagenet = labels if head is None and labels is not None and len(labels) == DEFAULT.classes else None
    return Source(
        "huggingface", origin, file_sha256(path), tensors, input_range=input_range, input_error=input_error,
        head=head, size=size, labels=tuple(imagenet) if imagenet else None,
    )  # fmt: skip


def _others(arrays: dict[str, Any]) -> str:
    names = list(arrays)
    if any(re.search(r"(^|\.)(features\.\d+\.|conv_stem\.weight|blocks\.\d+\.)", name) for name in names):
        return (
            "got those of torchvision or timm, whose MobileNet V2 is another network: it pads maps on every side and "
            "has another epsilon"
        )
    return f"got {', '.join(name[:60] for name in names[:3])}"


def _scope(found: re.Match[str]) -> str:
    if found["stem"]:
        return "MobilenetV2/Conv" if found["stem"].startswith("conv_stem") else "MobilenetV2/Conv_1"
    if found["first"]:
        return f"MobilenetV2/expanded_conv/{_PARTS[found['first']]}"
    return f"MobilenetV2/expanded_conv_{int(found['block']) + 1}/{_PARTS[found['part']]}"


def _tensor_name(scope: str, found: re.Match[str]) -> str:
    if found["norm"]:
        return f"{scope}/BatchNorm/{_NORM[found['norm']]}"
    return f"{scope}/{'depthwise_weights' if scope.endswith('/depthwise') else 'weights'}"


def _slim_layout(values: NDArray[np.float32], scope: str) -> NDArray[np.float32]:
    """Transpose PyTorch's [out,in,kh,kw] to [kh,kw,in,out], and its [channels,1,kh,kw] to [kh,kw,channels,1]."""
    if values.ndim != 4:
        return values  # folding reports the error
    order = (2, 3, 0, 1) if scope.endswith("/depthwise") else (2, 3, 1, 0)
    return np.ascontiguousarray(values.transpose(order))


def _classifier(
    arrays: dict[str, NDArray[np.float32]], tensors: Tensors, labels: list[str] | None, origin: str
) -> Head | None:
    """The classification layer. ImageNet's goes into ``tensors``; any other becomes a head, which is returned."""
    kernel, bias = arrays.get("classifier.weight"), arrays.get("classifier.bias")
    if kernel is None or kernel.ndim != 2:
        return None
    if bias is None:
        bias = np.zeros(len(kernel), np.float32)
    logits = DEFAULT.logits
    if len(kernel) == DEFAULT.classes:
        tensors[logits.weights_name] = np.ascontiguousarray(kernel.T)[np.newaxis, np.newaxis]
        tensors[logits.biases_name] = bias
        return None
    if kernel.size > HEAD_LIMIT:
        raise WeightsError(f"{origin}: classifier.weight: expected at most {HEAD_LIMIT} values, got {kernel.size}")
    step = Step("dense", "classifier", {"kernel": np.ascontiguousarray(kernel.T), "bias": bias})
    head = Head((step,), inputs=kernel.shape[1])
    return Head(head.steps, tuple(labels), head.inputs) if labels and len(labels) == head.count else head


def _arrays(path: Path, origin: str) -> dict[str, NDArray[np.float32]]:
    """The float tensors of a safetensors file. Raises WeightsError, ValueError."""
    data = read_block(path, _FILE_LIMIT)
    header, start = native.parsed_header(path, data)
    header.pop("__metadata__", None)
    found: dict[str, NDArray[np.float32]] = {}
    total = 0
    for name, entry in header.items():
        fields = entry if isinstance(entry, dict) else {}
        kind, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
        if kind not in _TYPES:
            continue  # such as the batch norms' counters
        if not (isinstance(shape, list) and len(shape) <= 4 and all(type(edge) is int and edge > 0 for edge in shape)):
            raise WeightsError(f"{origin}: {name[:100]}: expected up to four dimensions, got {shape!r}")
        dtype, count = np.dtype(_TYPES[kind]), math.prod(shape)
        first = offsets[0] if isinstance(offsets, list) and len(offsets) == 2 and type(offsets[0]) is int else -1
        if first < 0 or offsets != [first, first + count * dtype.itemsize] or start + offsets[1] > len(data):
            raise WeightsError(f"{origin}: {name[:100]}: data_offsets {offsets!r} don't fit shape {shape} or the file")
        total += count
        if total > _VALUES_LIMIT:
            raise WeightsError(f"{origin}: expected at most {_VALUES_LIMIT} values, got more")
        values = np.frombuffer(data, dtype, count, start + first)
        if kind == "BF16":
            values = from_bfloat16(values)
        found[name] = np.ascontiguousarray(values, np.float32).reshape(shape)
    return found
