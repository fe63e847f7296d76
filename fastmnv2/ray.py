"""More than one machine: feature vectors in Ray's data sets (``pip install 'fastmnv2[ray]'``).

>>> import ray
>>> from fastmnv2.ray import ImageEmbedder
>>> names = ray.data.from_items([{"path": path} for path in paths])
>>> vectors = names.map_batches(ImageEmbedder, batch_size=64, num_cpus=1, concurrency=8)

Within one machine, ``fastmnv2.embed_images`` does the same with less: it has no processes to start and copies nothing
between them.
"""

import importlib
import logging
import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core import kept, network
from fastmnv2.core.errors import ImageError
from fastmnv2.core.model import Model
from fastmnv2.image import embed
from fastmnv2.image.decode import MAX_PIXELS, Decode
from fastmnv2.image.resizing import Method

if TYPE_CHECKING:
    Batch = dict[str, NDArray[Any]]


class ImageEmbedder:
    """A class for ``ray.data.Dataset.map_batches``, which makes one of it in each of its processes.

    Args:
        weights: as for ``fastmnv2.load``, or a model.
        column: what is embedded: paths or URLs that every node can read, files' bytes, or arrays.
        keep_errors: a picture that can't be read gets a vector of NaN, and its error in the column ``error``, which
            is empty for all others; else the first such picture ends the job.
        threads: of each process. Ask Ray for as many: ``num_cpus=threads``.
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
        self._options = embed.options(method, decode, exif, max_pixels)

    def __call__(self, batch: "Batch") -> "Batch":
        """The batch with a column more, ``features``: float32 [n,1280]; and ``error`` with ``keep_errors``."""
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
        features = np.full((len(items), network.FEATURES), np.nan, np.float32)
        for result in results:
            features[result.index] = result.value
        if not self._keep_errors:
            return {**batch, "features": features}
        reasons = {error.index: error.reason for error in errors}
        return {**batch, "features": features, "error": np.array([reasons.get(i, "") for i in range(len(items))])}


def embed_names(
    model: Model, names: list[str], *, batch_size: int, **options: Any
) -> Generator[tuple[str, NDArray[np.float32] | None, str | None], None, None]:
    """Each name, its vector or None, and its error or None, as the cluster is through with them.

    Connects to the cluster that ``RAY_ADDRESS`` names, or starts one on this machine, unless that has been done.
    """
    try:
        importlib.import_module("ray.data")
        ray: Any = importlib.import_module("ray")  # types in part
    except ImportError as error:
        raise ImportError("--engine ray needs Ray: pip install 'fastmnv2[ray]'", name="ray") from error
    if not names:
        return
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING, log_to_driver=False)
    workers = max(1, min(int(ray.cluster_resources().get("CPU", 1)), -(-len(names) // batch_size)))
    # Blocks as small as batches: those of a node that is lost are all that is computed again.
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
