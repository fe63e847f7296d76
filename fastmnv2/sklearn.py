"""The network as a scikit-learn transformer, for pipelines, grid searches and process pools.

>>> from fastmnv2.sklearn import Embedder
>>> make_pipeline(Embedder(), LogisticRegression()).fit(paths, labels)  # doctest: +SKIP

Needs ``pip install 'fastmnv2[learn]'``.
"""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core import model_cache
from fastmnv2.core.arguments import Precision
from fastmnv2.core.model import Model
from fastmnv2.image.options import Colour, Decode
from fastmnv2.image.resizing import Crop, Method

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
except ImportError as _error:
    _message = "the transformer needs scikit-learn: pip install 'fastmnv2[learn]'"
    raise ImportError(_message, name="sklearn") from _error


class Embedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Transform pictures to feature vectors. There is nothing to fit.

    Args:
        weights: as for ``fastmnv2.load``, or a ``Model``. A path or name is loaded on first use, once per process;
            pickles and clones carry only the name.
        precision, size: as for ``fastmnv2.load``; ``size`` is needed for weights that don't record it.
        method, decode, exif, max_pixels, crop, background: how pictures are decoded and resized, as for
            ``fastmnv2.embed_images``.
        normalize: scale each vector to length 1.
        batch_size: pictures per batch.
        threads: maximum number of threads; None for every CPU that the process may use (a share in joblib's workers).
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | Model | None = None,
        *,
        precision: Precision | None = None,
        size: int | tuple[int, int] | None = None,
        method: Method = "tf2",
        crop: Crop | None = None,
        normalize: bool = False,
        batch_size: int = 64,
        threads: int | None = None,
        decode: Decode = "exact",
        exif: bool = True,
        max_pixels: int | None = None,
        background: Colour | None = None,
    ) -> None:
        self.weights = weights
        self.precision = precision
        self.size = size
        self.method = method
        self.crop = crop
        self.normalize = normalize
        self.batch_size = batch_size
        self.threads = threads
        self.decode = decode
        self.exif = exif
        self.max_pixels = max_pixels
        self.background = background

    def fit(self, X: Any, y: Any = None) -> "Embedder":
        """Load the weights, so that bad weights raise their error here. ``X`` and ``y`` are ignored."""
        self._model()
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Feature vectors of pictures.

        Args:
            X: an array of images as for ``Model.embed``; or a sequence, array, Series or one-column DataFrame of
                items for ``fastmnv2.embed_images``: paths, bytes, PIL images, arrays of any size.

        Returns:
            float32 ``[n,features]``; a DataFrame after ``set_output``.

        Raises:
            ValueError, TypeError, OSError: as ``Model.embed`` and ``fastmnv2.embed_images``.
        """
        model = self._model()
        array = np.asarray(X) if hasattr(X, "__array__") else None
        if array is not None and array.dtype.kind in "fu" and array.shape[1:] == model.network.image_shape:
            return model.embed(array, threads=self.threads, normalize=self.normalize)
        items = X
        if array is not None and array.dtype.kind in "OUST":
            if array.ndim == 2 and array.shape[1] != 1:
                raise ValueError(f"X: expected one column of pictures, got {array.shape[1]}")
            items = array.reshape(-1).tolist()
        elif array is not None and array.ndim != 4:
            raise ValueError(f"X: expected images [n, H, W, 3] or a sequence of pictures, got {list(array.shape)}")
        return model.embed_images(
            items,
            method=self.method,
            crop=self.crop,
            decode=self.decode,
            exif=self.exif,
            max_pixels=self.max_pixels,
            background=self.background,
            normalize=self.normalize,
            batch_size=self.batch_size,
            threads=self.threads,
        )

    @property
    def _n_features_out(self) -> int:
        return self._model().network.features

    def _model(self) -> Model:
        if isinstance(self.weights, Model):
            return self.weights
        return model_cache.model(self.weights, precision=self.precision, size=self.size)

    def __sklearn_is_fitted__(self) -> bool:
        """True, because there is nothing to fit."""
        return True

    def __sklearn_tags__(self) -> Any:
        """Input and output kinds, for scikit-learn's own checks."""
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags
