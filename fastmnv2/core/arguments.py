"""Checks of callers' images and output arrays, before anything is computed."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.network import Network

Precision = Literal["float32", "int8"]
"""The precision of a model's computation."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_FLOAT32, _UINT8 = np.dtype(np.float32), np.dtype(np.uint8)


def as_images(images: Any, network: Network) -> tuple[NDArray[Any], bool]:
    """``images`` as a C-contiguous float32 or uint8 array [n,height,width,3], and whether it was a single image.

    An array that already has this form is not copied.

    Raises:
        TypeError: if it is not an array, or has another dtype.
        ValueError: if it has another shape.
    """
    if type(images) is np.ndarray:
        # The usual case comes first, because these checks are most of a call's overhead.
        dtype = images.dtype
        if (dtype is _FLOAT32 or dtype is _UINT8) and images.flags.carray and images.shape[1:] == network.image_shape:
            return images, False
        array = images
    else:
        array = _as_array(images, network)
    shape = array.shape
    if len(shape) not in (3, 4) or shape[-3:] != network.image_shape:
        hint = ""
        if shape[-3:] == (3, *network.size):
            hint = "; channels come last here: use images.transpose(..., 1, 2, 0)"
        elif len(shape) in (3, 4) and shape[-1] == 3:
            hint = "; resize first, for example with fastmnv2.image.resize"
        raise ValueError(f"images: expected shape {_expected(network)}; got shape {list(shape)}{hint}")
    dtype = array.dtype
    if dtype not in (np.float32, np.uint8):
        # ml_dtypes' bfloat16 is not a subtype of numpy's floating types.
        if dtype.kind != "f" and dtype.name != "bfloat16":
            raise TypeError(f"images: expected dtype float32 (or another float) or uint8; got {dtype}")
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if not (array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative):
        array = np.require(array, array.dtype.newbyteorder("="), ["C", "A"])
    single = len(shape) == 3
    return (array[np.newaxis] if single else array), single


def _expected(network: Network) -> str:
    image = ", ".join(map(str, network.image_shape))
    return f"[n, {image}] or [{image}], RGB, float32 in [0, 1] or uint8"


def _as_array(images: Any, network: Network) -> NDArray[Any]:
    try:
        if hasattr(images, "detach"):  # a torch tensor: numpy refuses bfloat16, and tensors that require a gradient
            images = images.detach()
            images = images.float() if str(images.dtype) == "torch.bfloat16" else images
        # A buffer, __array__ or a sequence of arrays; DLPack only for objects that offer none of these.
        if not hasattr(images, "__array__") and hasattr(images, "__dlpack__"):
            return np.from_dlpack(images)
        array = np.asarray(images)
    except Exception as error:
        raise TypeError(
            f"images: expected an array, a buffer or a DLPack tensor on the CPU, {_expected(network)}; "
            f"got {type(images).__name__}, which numpy can't read: {error}"
        ) from error
    if array.dtype == object or array.ndim == 0:
        raise TypeError(f"images: expected an array, {_expected(network)}; got {type(images).__name__}")
    return array


def check_out(out: Any, shape: tuple[int, ...], images: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``out`` if it can hold the result; otherwise raise TypeError or ValueError with the reason."""
    usual = type(out) is np.ndarray and out.dtype is _FLOAT32 and out.shape == shape and out.flags.carray
    # Two different arrays that both own their memory cannot overlap.
    if usual and out.base is None and images.base is None and out is not images:
        return out  # type: ignore[no-any-return]
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected a numpy array, got {type(out).__name__}")
    if out.dtype != np.float32 or not out.dtype.isnative:
        raise TypeError(f"out: expected dtype float32, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out: expected shape {list(shape)}, got {list(out.shape)}")
    if not (out.flags.c_contiguous and out.flags.aligned):
        raise ValueError("out: expected a C-contiguous, aligned array")
    if not out.flags.writeable:
        raise ValueError("out: expected a writable array, got a read-only one")
    if np.may_share_memory(out, images):
        raise ValueError("out: must not overlap images in memory")
    return out
