"""Feature vectors in Ray's datasets, for jobs on several machines (``pip install 'fastmnv2[ray]'``).

>>> import ray
>>> from fastmnv2.ray import ImageEmbedder
>>> names = ray.data.from_items([{"path": path} for path in paths])
>>> vectors = names.map_batches(ImageEmbedder, batch_size=64, num_cpus=1, concurrency=8)

On one machine, ``fastmnv2.embed_images`` is faster: it starts no processes and copies nothing between them.
"""

import importlib
import logging
import os
import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core import model_cache
from fastmnv2.core.errors import ImageError, printable
from fastmnv2.core.model import Model
from fastmnv2.image import embed
from fastmnv2.image.options import MAX_PIXELS, Colour, Decode, Options
from fastmnv2.image.resizing import Crop, Method

if TYPE_CHECKING:
    Batch = dict[str, NDArray[Any]]


class ImageEmbedder:
    """A class for ``ray.data.Dataset.map_batches``, which makes one instance in each of its processes.

    Args:
        weights: as for ``fastmnv2.load``, or a model.
        column: the column to embed: paths or URLs that every node can read, bytes of files, or arrays.
        on_error: "raise" ends the job at the first picture that can't be read. "keep" gives such a picture a vector of
            NaN and adds two columns: ``error``, the reason, which is empty for all other pictures; and ``transient``,
            whether this machine or the network caused the error, so that a later try may succeed.
        threads: number of threads of each process. Ask Ray for as many CPUs: ``num_cpus=threads``.
        normalize, method, decode, exif, max_pixels, crop, background: as for ``fastmnv2.embed_images``.
        keep_errors: deprecated; True is ``on_error="keep"``.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | Model | None = None,
        *,
        column: str = "path",
        on_error: Literal["raise", "keep"] = "raise",
        threads: int = 1,
        normalize: bool = False,
        method: Method = "tf2",
        decode: Decode = "exact",
        exif: bool = True,
        max_pixels: int = MAX_PIXELS,
        crop: Crop | None = None,
        background: Colour | None = None,
        keep_errors: bool = False,
    ) -> None:
        if keep_errors:
            warnings.warn('keep_errors is deprecated: use on_error="keep"', DeprecationWarning, stacklevel=2)
            on_error = "keep"
        self._model = weights if isinstance(weights, Model) else model_cache.model(weights)
        if on_error not in ("raise", "keep"):
            raise ValueError(f"on_error: expected 'raise' or 'keep', got {on_error!r}")
        self._column, self._threads, self._normalize = column, threads, normalize
        self._keep_errors = on_error == "keep"
        size = self._model.network.size
        self._options = embed.options(method, decode, exif, max_pixels, size, crop, background)

    def __call__(self, batch: "Batch") -> "Batch":
        """Add the column ``features``, float32 [n,features], and with "keep" also ``error`` and ``transient``."""
        items = list(batch[self._column])
        errors: list[ImageError] = []
        results = embed.vectors(
            self._model,
            [str(item) if isinstance(item, np.str_) else item for item in items],
            self._options,
            batch_size=64,
            threads=self._threads,
            on_error=errors.append if self._keep_errors else "raise",
            normalize=self._normalize,
        )
        features = np.full((len(items), self._model.network.features), np.nan, np.float32)
        for result in results:
            features[result.index] = result.value
        if not self._keep_errors:
            return {**batch, "features": features}
        reasons, transient = np.full(len(items), "", object), np.zeros(len(items), np.bool_)
        for error in errors:
            reasons[error.index], transient[error.index] = printable(error.reason), error.transient
        return {**batch, "features": features, "error": reasons.astype(str), "transient": transient}


class _Embedder(ImageEmbedder):
    """The same for names in bytes, because Arrow's strings can hold UTF-8 only."""

    def __init__(self, model: Model, options: Options, normalize: bool) -> None:
        super().__init__(model, on_error="keep", normalize=normalize)
        self._options = options

    def __call__(self, batch: "Batch") -> "Batch":
        found = super().__call__({"path": np.array([os.fsdecode(name) for name in batch["name"]], object)})
        return {"name": batch["name"], **{name: found[name] for name in ("features", "error", "transient")}}


def embed_names(
    model: Model, names: list[str], options: Options, *, batch_size: int, normalize: bool
) -> Generator[tuple[str, NDArray[np.float32] | None, str | None, bool], None, None]:
    """Yield each name, its vector or None, its error or None, and whether that is transient, in order of completion.

    Connects to the cluster that ``RAY_ADDRESS`` names, or starts one on this machine, unless Ray is already running.
    """
    try:
        importlib.import_module("ray.data")
        ray: Any = importlib.import_module("ray")  # Any: its types are incomplete
    except ImportError as error:
        raise ImportError("--engine ray needs Ray: pip install 'fastmnv2[ray]'", name="ray") from error
    if not names:
        return
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING, log_to_driver=False)
    blocks = -(-len(names) // batch_size)  # as small as batches, because a lost node's blocks are computed again
    workers = max(1, min(int(ray.cluster_resources().get("CPU", 1)), blocks))
    listed = ray.data.from_items([{"name": os.fsencode(name)} for name in names], override_num_blocks=blocks)
    found = listed.map_batches(
        _Embedder,
        fn_constructor_args=(model, options, normalize),
        batch_size=batch_size,
        num_cpus=1,
        concurrency=(1, workers),
    )
    for batch in found.iter_batches(batch_size=batch_size):
        columns = (batch[name] for name in ("name", "features", "error", "transient"))
        for name, vector, reason, transient in zip(*columns, strict=True):
            yield os.fsdecode(name), None if reason else vector, str(reason) or None, bool(transient)
