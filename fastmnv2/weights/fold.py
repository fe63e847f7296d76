"""Check weights, and fold batch norms into the convolutions before them."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import WeightsError
from fastmnv2.core.network import BATCH_NORM, DEFAULT, Layer, Network, Shapes
from fastmnv2.weights.tensors import Folded, Source, Tensors


def fold(source: Source) -> Folded:
    """Check ``source`` against the network and fold its batch norms, in float64 with one rounding.

    ``scale = gamma / sqrt(moving_variance + epsilon)``, ``kernel' = kernel * scale`` for each output channel,
    ``bias = beta - moving_mean * scale``: Ioffe and Szegedy 2015 with TF-Slim's epsilon. Layers that have biases are
    already folded and used unchanged, without a copy if they are float32 and contiguous.

    Raises:
        WeightsError: if tensors are missing, have other shapes or are not finite; if a variance is negative; if the
            image size is unknown; or if layers before or after the network can't be run.
    """
    if source.input_error:
        how = "" if "input_range" in source.input_error else "; input_range= sets what black and white become before it"
        raise WeightsError(f"{source.origin}: {source.input_error}{how}")
    if source.head_error:
        how = "" if "head=False" in source.head_error else "; head=False skips all layers after the pooling"
        raise WeightsError(f"{source.origin}: {source.head_error}{how}")
    _check_complete(source)
    tensors: Tensors = {}
    for layer in source.network.layers:
        if layer.is_logits and layer.weights_name not in source.tensors:
            continue
        kernel, bias = _fold_layer(source, layer)
        tensors[layer.weights_name] = kernel
        tensors[layer.biases_name] = bias
    if source.size is None:
        height, width = source.network.size
        assumed = (
            f"the image size is not recorded: {height} x {width} is assumed, as for 'imagenet'; size= sets another"
        )
        source = replace(source, notes=(*source.notes, assumed))
    return Folded.of(source, tensors)


def _is_folded(source: Source, layer: Layer) -> bool:
    return layer.is_logits or f"{layer.scope}/BatchNorm/{BATCH_NORM[0]}" not in source.tensors


def _expected(source: Source, layer: Layer) -> Shapes:
    """Names and shapes of the tensors that a layer must have."""
    folded = _is_folded(source, layer) and layer.biases_name in source.tensors
    return layer.folded() if folded else layer.trained()


def _table(source: Source, network: Network) -> Shapes:
    """Names and shapes of all required tensors."""
    expected: Shapes = {}
    for layer in network.layers:
        if not layer.is_logits or layer.weights_name in source.tensors:
            expected |= _expected(source, layer)
    return expected


def _check_complete(source: Source) -> None:
    present = source.tensors
    named = _table(source, DEFAULT)
    missing = [name for name in named if name not in present]
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise WeightsError(
            f"{source.origin}: {len(missing)} of {len(named)} tensors are missing: {', '.join(missing[:4])}{more}"
        )
    expected = _table(source, source.network)
    wrong = [name for name, shape in expected.items() if present[name].shape != shape]
    if wrong:
        name = wrong[0]
        hint = ""
        if len(wrong) > len(expected) // 4:
            hint = f"; no multiplier gives these channels, {source.network.multiplier:g} comes closest"
        raise WeightsError(
            f"{source.origin}: {name}: expected shape {list(expected[name])}, got {list(present[name].shape)} "
            f"({len(wrong)} of {len(expected)} tensors differ{hint})"
        )
    if source.head is not None and source.head.inputs != source.network.features:
        raise WeightsError(
            f"{source.origin}: {source.head.steps[0].name}: expected {source.network.features} inputs, the network's "
            f"features, got {source.head.inputs}"
        )
    for name in expected:
        _check_finite(source.origin, name, present[name])


def _check_finite(origin: str, name: str, array: NDArray[np.floating]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(np.add.reduce(array, axis=None)):  # then all values are finite; isfinite takes 3 times as long
            return
    finite = np.isfinite(array)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise WeightsError(
            f"{origin}: {name}: {bad.size} of {array.size} values are not finite "
            f"(the first is {array.flat[bad[0]]} at index {bad[0]})"
        )


def _fold_layer(source: Source, layer: Layer) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    kernel = source.tensors[layer.weights_name]
    if _is_folded(source, layer):
        bias = source.tensors[layer.biases_name]
        return np.ascontiguousarray(kernel, np.float32), np.ascontiguousarray(bias, np.float32)

    gamma, beta, mean, variance = (
        source.tensors[f"{layer.scope}/BatchNorm/{name}"].astype(np.float64) for name in BATCH_NORM
    )
    if np.min(variance) < 0:
        raise WeightsError(
            f"{source.origin}: {layer.scope}/BatchNorm/moving_variance: expected no negative values, "
            f"got {np.min(variance)}"
        )
    scale = gamma / np.sqrt(variance + source.network.epsilon)
    # Depthwise kernels have their channels on the third axis, other kernels on the fourth.
    wide = scale[:, np.newaxis] if layer.kind == "depthwise" else scale
    with np.errstate(over="ignore"):
        folded = (kernel.astype(np.float64) * wide).astype(np.float32)
        bias = (beta - mean * scale).astype(np.float32)
    _check_finite(source.origin, f"{layer.weights_name} with its batch norm folded in", folded)
    _check_finite(source.origin, f"{layer.scope}/BatchNorm, folded", bias)
    return folded, bias
