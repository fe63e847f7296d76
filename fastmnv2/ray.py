"""Feature vectors in Ray's datasets, for more than one machine (``pip install 'fastmnv2[ray]'``).

>>> import ray
>>> from fastmnv2.ray import ImageEmbedder
>>> names = ray.data.from_items([{"path": path} for path in paths])
>>> vectors = names.map_batches(ImageEmbedder, batch_size=64, num_cpus=1, concurrency=8)

On one machine, ``fastmnv2.embed_images`` does the same faster: it starts no processes and copies nothing between them.
"""

import importlib
import logging
import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core import kept
from fastmnv2.core.errors import ImageError
from fastmnv2.core.model import Model
from fastmnv2.image import embed
from fastmnv2.image.decode import MAX_PIXELS, Decode
from fastmnv2.image.resizing import Method

if TYPE_CHECKING:
    Batch = dict[str, NDArray[Any]]


class ImageEmbedder:
    """A class for ``ray.data.Dataset.map_batches``, which makes one instance in each of its processes.

    Args:
        weights: as for ``fastmnv2.load``, or a model.
        column: the column to embed: paths or URLs that every node can read, bytes of files, or arrays.
        keep_errors: give a picture that can't be read a vector of NaN, and put the reason into the column ``error``,
            which is empty for all others. By default the first such picture ends the job.
        threads: number of threads of each process. Ask Ray for as many CPUs: ``num_cpus=threads``.
        normalize, method, decode, exif, max_pixels: as for ``fastmnv2.embed_images``.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | Model | None = None,
        *,
        column: str = "path",
        keep_errors: bool = False,
        threads: int = 1,
        normalize: bool = False,
        method: Method = "tf2",
        decode: Decode = "exact",
        exif: bool = True,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._model = weights if isinstance(weights, Model) else kept.model(weights)
        self._column, self._keep_errors, self._threads, self._normalize = column, keep_errors, threads, normalize
        self._options = embed.options(method, decode, exif, max_pixels, self._model.network.size)

    def __call__(self, batch: "Batch") -> "Batch":
        """Add the column ``features``, float32 [n,features], and with ``keep_errors`` the column ``error``."""
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
        reasons = {error.index: error.reason for error in errors}
        return {**batch, "features": features, "error": np.array([reasons.get(i, "") for i in range(len(items))])}


def embed_names(
    model: Model, names: list[str], *, batch_size: int, **options: Any
) -> Generator[tuple[str, NDArray[np.float32] | None, str | None], None, None]:
    """Yield each name with its vector or None and its error or None, in the order in which the cluster finishes.

    Connects to the cluster that ``RAY_ADDRESS`` names, or starts one on this machine, unless Ray is initialised.
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
    workers = max(1, min(int(ray.cluster_resources().get("CPU", 1)), -(-len(names) // batch_size)))
    # Blocks as small as batches, so that little is computed again after the loss of a node.
    listed = ray.data.from_items([{"path": name} for name in names], override_num_blocks=-(-len(names) // batch_size))
    found = listed.map_batches(
        ImageEmbedder,
        fn_constructor_args=(model,),
        fn_constructor_kwargs={"keep_errors": True, **options},
        batch_size=batch_size,
        num_cpus=1,
        concurrency=(1, workers),
    )
    for batch in found.iter_batches(batch_size=batch_size):
        for name, vector, reason in zip(batch["path"], batch["features"], batch["error"], strict=True):
            yield str(name), None if reason else vector, str(reason) or None
