"""Check whether the first convolution looks as if it was trained on another input range than [-1, 1]."""

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.network import DEFAULT
from fastmnv2.weights.tensors import Source

# The kernels' norm varies about 4-fold between trained networks. For [0,255] it is 127 times smaller than for [-1,1].
_FACTOR = 20
_USUAL_NORM = 1.5  # the norm of a channel's folded kernel, as the median over the channels
_ASSUMED = "without it, [-1, 1] is assumed"


def doubt(source: Source) -> str:
    """Why the input range is probably not [-1,1], for weights that don't record it; "" if there is no doubt.

    A converter that folds ``x / 255`` into the first kernel makes it about 255 times smaller than the kernel of a
    network for [-1,1]. A batch norm gives better evidence: each channel's standard deviation over the training images,
    which is compared with the deviation that the kernel gives on photographs in [-1,1].
    """
    if source.input_range is not None or source.input_error or source.form in ("native", "untrained"):
        return ""
    if source.quantised is not None:  # the image's scale and zero point define the range
        return ""
    layer = DEFAULT.layers[0]
    kernel = source.tensors.get(layer.weights_name)
    norm = [source.tensors.get(f"{layer.scope}/BatchNorm/{name}") for name in ("moving_mean", "moving_variance")]
    if (
        kernel is None
        or kernel.ndim != 4
        or kernel.shape[:3] != layer.weights_shape[:3]
        or not np.isfinite(kernel).all()
    ):
        return ""  # folding reports the error
    columns = kernel.reshape(-1, kernel.shape[3]).astype(np.float64)
    mean, variance = norm
    if mean is None or variance is None:
        return _folded(columns)
    if mean.shape != columns.shape[1:] or variance.shape != mean.shape or not np.isfinite([mean, variance]).all():
        return ""
    return _trained(columns, mean.astype(np.float64), variance.astype(np.float64))


def _folded(columns: NDArray[np.float64]) -> str:
    lengths = np.linalg.norm(columns, axis=0)
    live = lengths[lengths > lengths.max(initial=0) * 1e-3]
    times = _USUAL_NORM / float(np.median(live)) if live.size else 1.0
    if times < _FACTOR:
        return ""
    return (
        f"the first kernel is about {times:.0f} times smaller than usual, as if a scaling of the images had been "
        f"folded into it; if the network takes pixels in [0, 255], pass input_range=(0, 255); {_ASSUMED}"
    )


def _trained(columns: NDArray[np.float64], mean: NDArray[np.float64], variance: NDArray[np.float64]) -> str:
    expected = np.sqrt(np.einsum("ic,ij,jc->c", columns, _photographs(), columns))
    live = (variance > 1e-6 * max(float(variance.max(initial=0)), 1e-30)) & (expected > expected.max(initial=0) * 1e-3)
    if live.sum() < 4:
        return ""
    ratio = float(np.median(np.sqrt(variance[live]) / expected[live]))
    sums = columns.sum(axis=0)
    middle = float(mean[live] @ sums[live] / max(float(sums[live] @ sums[live]), 1e-30))
    if 0.3 < ratio < 0.62 and 0.15 < middle < 0.85:
        return (
            f"the first batch norm saw images with {1 / ratio:.1f} times less contrast than photographs in [-1, 1] "
            f"and a mean of {middle:.2f}; if the network was trained on images in [0, 1], pass input_range=(0, 1); "
            f"{_ASSUMED}"
        )
    if ratio > _FACTOR:
        return (
            f"the first batch norm saw images with {ratio:.0f} times the contrast of photographs in [-1, 1]; if the "
            f"network was trained on pixels in [0, 255], pass input_range=(0, 255); {_ASSUMED}"
        )
    if ratio < 1 / _FACTOR:
        return (
            f"the first batch norm saw images with {1 / ratio:.0f} times less contrast than photographs in [-1, 1]; "
            f"pass the values of black and white in training as input_range=; {_ASSUMED}"
        )
    return ""


def _photographs() -> NDArray[np.float64]:
    """Covariance of the 27 values under a 3x3 kernel in photographs in [-1,1], from a model with three parameters."""
    places = np.array([(row, column) for row in range(3) for column in range(3)])
    distances = np.sqrt(((places[:, None] - places[None]) ** 2).sum(-1))
    colours = 0.1 * np.eye(3) + 0.9 * np.ones((3, 3))
    return np.kron(0.3 * 0.95**distances, colours)
