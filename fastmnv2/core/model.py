"""A loaded network: images in, features, logits and endpoints out."""

import os
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core import _engine, arguments
from fastmnv2.core import threads as _threads
from fastmnv2.core.arguments import Precision
from fastmnv2.core.errors import WeightsError
from fastmnv2.core.network import DEFAULT, Network

if TYPE_CHECKING:
    from fastmnv2.image.embed import OnError
    from fastmnv2.image.options import Colour, Decode
    from fastmnv2.image.resizing import Crop, Method
    from fastmnv2.weights.tensors import Folded

ENDPOINT_NAMES = ("default", *(endpoint.name for endpoint in DEFAULT.endpoints))
"""The hub module's named outputs, the same for every network."""
PROJECTION_NAMES = tuple(endpoint.name for endpoint in DEFAULT.projections)
"""Extra endpoints of int8 models: each block's projection before the residual is added."""

_ENDPOINT_INDEX = {name: index for index, name in enumerate((*ENDPOINT_NAMES[1:], *PROJECTION_NAMES))}
_PART_SECONDS = 0.04
_LOGITS_PART = 64  # vectors between two checks for signals; they take a few milliseconds at most


def available_isas(precision: Precision = "float32") -> tuple[str, ...]:
    """Instruction sets that this build supports for a precision and this machine can run, slowest first."""
    names = (name for name, supported in _engine.isas() if supported)
    return tuple(name for name in names if _engine.isa_for(precision, name) == name)


def isa(precision: Precision = "float32") -> str:
    """The instruction set for newly loaded models: the fastest one, or the one that ``FASTMNV2_ISA`` names.

    If the named instruction set has no kernels for the precision, models use the next slower one that does.

    Raises:
        ValueError: if this build or machine lacks the instruction set that ``FASTMNV2_ISA`` names.
    """
    names = tuple(name for name, supported in _engine.isas() if supported)
    forced = os.environ.get("FASTMNV2_ISA", "").strip().lower()
    if forced and forced not in names:
        raise ValueError(f"FASTMNV2_ISA: expected one of {', '.join(names)} on this machine, got {forced!r}")
    return _engine.isa_for(precision, forced or names[-1])


class Model:
    """The network with its weights, packed for one instruction set. Immutable and thread-safe.

    ``fastmnv2.load`` makes models. The same image gives the same bits alone or in any batch, at any position,
    with any number of threads and on any instruction set.

    Models can be pickled, for process pools and the like. A model from a native file pickles as the file's path and
    digest, so the same file must exist where it is unpickled. Any other model pickles its weights. An unpickled model
    runs on the instruction set of its new process. ``copy.copy`` and ``copy.deepcopy`` return the model itself.
    """

    __slots__ = ("__weakref__", "_engine", "_first", "_folded", "_isa", "_network", "_runner", "_threads", "_warned")

    def __init__(self, folded: "Folded", *, threads: int | None = None) -> None:
        if threads is not None:
            _threads.resolve(threads)
        self._threads = threads
        self._isa = isa(folded.precision)
        self._first = _engine.images_in_a_moment(self._isa)
        self._warned = False
        self._folded = folded
        self._network = folded.network
        self._engine = folded.engine(self._isa)
        self._runner = folded.head.runner(self._isa) if folded.head else None

    def __reduce__(self) -> tuple[Any, ...]:
        from fastmnv2.weights import pickled

        return _unpickled, (type(self), *pickled.pack(self._folded), {"threads": self._threads})

    def __copy__(self) -> "Model":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Model":
        return self

    @property
    def network(self) -> Network:
        """The network: multiplier, image height and width, features, layers, endpoints."""
        return self._network

    @property
    def isa(self) -> str:
        """Name of the instruction set that this model runs on."""
        return self._isa

    @property
    def precision(self) -> Precision:
        """The precision of the computation: "float32" or "int8"."""
        return self._folded.precision

    @property
    def has_logits(self) -> bool:
        """Whether the weights have ImageNet's classification layer, which ``logits`` needs."""
        return self._folded.has_logits

    @property
    def has_head(self) -> bool:
        """Whether the weights have their own layers after the pooling, which ``predict`` runs."""
        return self._folded.head is not None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the head's classes in order, or of ImageNet's if there is no head; None if they are unknown."""
        return self._folded.head.classes if self._folded.head else self._folded.labels if self.has_logits else None

    @property
    def weights(self) -> dict[str, Any]:
        """Origin and properties of the weights.

        ``form``, ``origin``, ``sha256``, ``network`` (its name), ``precision``, ``has_logits``, ``input_range`` (the
        values of black and white at the network's input), ``head`` (names of the layers after the pooling),
        ``classes``, ``notes``.
        """
        folded = self._folded
        return {
            "form": folded.form,
            "network": self._network.name,
            "precision": folded.precision,
            "origin": folded.origin,
            "sha256": folded.sha256,
            "has_logits": folded.has_logits,
            "input_range": folded.range,
            "head": [step.name for step in folded.head.steps] if folded.head else [],
            "classes": self.classes,
            "notes": list(folded.notes),
        }

    @property
    def folded(self) -> "Folded":
        """The weights, for this package's own writers."""
        return self._folded

    @property
    def features_digest(self) -> str:
        """SHA-256, in hexadecimal, of all weights that ``embed`` uses. Models with equal digests give the same bits."""
        return self._folded.features_digest

    @property
    def engine(self) -> _engine.Engine:
        """The C core's model, for this package's own measurements."""
        return self._engine

    def __repr__(self) -> str:
        precision = "" if self.precision == "float32" else f" {self.precision}"
        folded = self._folded
        return f"<fastmnv2.Model {self._network.name} {folded.form}{precision} {folded.origin!r} on {self._isa}>"

    def embed(
        self,
        images: Any,
        *,
        out: NDArray[np.float32] | None = None,
        threads: int | None = None,
        normalize: bool = False,
    ) -> NDArray[np.float32]:
        """Feature vectors of images.

        Args:
            images: ``[n,height,width,3]`` or one ``[height,width,3]``, RGB, of the network's size; float in [0,1], or
                uint8, which is scaled by ``float32(1/255)``. A numpy array, anything with the buffer protocol or
                ``__array__``, or a DLPack tensor on the CPU. An int8 model uses uint8 pixels unchanged, and rounds
                floats to the nearest pixel, ``round_half_even(255 x)``, so both give the same bits.
            out: C-contiguous float32 array for the result, not overlapping ``images``.
            threads: the maximum number of threads, limited by the CPUs that this process may use and the threads that
                the system lets it start; None for the model's own setting, which defaults to all those CPUs.
            normalize: scale each vector to length 1 (L2 norm), so that dot products are cosine similarities. A vector
                of zeros stays zero.

        Returns:
            float32 ``[n,features]``, or ``[features]`` for one image; ``out`` if it was given. Values are in
            [0,6]. An image that contains a NaN gives NaN.

        Raises:
            TypeError, ValueError: if ``images``, ``out`` or ``threads`` are not as above; nothing is computed.
            MemoryError: if there is no memory for the working buffers.
        """
        array, single = arguments.as_images(images, self._network)
        n = array.shape[0]
        if out is None:
            features: NDArray[np.float32] = np.empty((n, self._network.features), np.float32)
            result = features[0] if single else features
        else:
            result = arguments.check_out(
                out, (self._network.features,) if single else (n, self._network.features), array
            )
            features = result
        self._forward(array, features, threads)
        if normalize:
            _normalize(features)
        return result

    def embed_images(
        self,
        items: Iterable[Any],
        *,
        batch_size: int = 64,
        threads: int | None = None,
        method: "Method" = "tf2",
        decode: "Decode" = "exact",
        on_error: "OnError" = "raise",
        normalize: bool = False,
        progress: bool = False,
        out: NDArray[np.float32] | None = None,
        exif: bool = True,
        max_pixels: int | None = None,
        crop: "Crop | None" = None,
        background: "Colour | None" = None,
    ) -> NDArray[np.float32]:
        """Feature vectors of picture files and other pictures. Arguments and errors: ``fastmnv2.embed_images``."""
        from fastmnv2.image import embed

        return embed.embed_images(
            self, items, embed.options(method, decode, exif, max_pixels, self._network.size, crop, background),
            batch_size=batch_size, threads=threads, on_error=on_error, normalize=normalize, progress=progress, out=out,
        )  # fmt: skip

    def iter_embed_images(
        self,
        items: Iterable[Any],
        *,
        batch_size: int = 64,
        threads: int | None = None,
        method: "Method" = "tf2",
        decode: "Decode" = "exact",
        on_error: "OnError" = "raise",
        normalize: bool = False,
        exif: bool = True,
        max_pixels: int | None = None,
        crop: "Crop | None" = None,
        background: "Colour | None" = None,
    ) -> Iterator[tuple[Any, NDArray[np.float32]]]:
        """Pairs of an item and its feature vector, in order. Arguments and errors: ``fastmnv2.iter_embed_images``."""
        from fastmnv2.image import embed

        return embed.iter_embed_images(
            self, items, embed.options(method, decode, exif, max_pixels, self._network.size, crop, background),
            batch_size=batch_size, threads=threads, on_error=on_error, normalize=normalize,
        )  # fmt: skip

    def thread_count(self, threads: int | None = None) -> int:
        """The number of threads that a call with this ``threads`` would use now."""
        return _threads.resolve(self._threads if threads is None else threads)

    def logits(self, images: Any, *, threads: int | None = None) -> NDArray[np.float32]:
        """Class scores before the softmax: float32 ``[n,1001]``, or ``[1001]`` for one image.

        Index 0 is "background"; index i is ImageNet class i-1. Arguments and errors are those of ``embed``.

        Raises:
            WeightsError: if the weights have no logits layer.
        """
        self._need_logits()
        array, single = arguments.as_images(images, self._network)
        features = np.empty((array.shape[0], self._network.features), np.float32)
        logits = np.empty((array.shape[0], self._network.classes), np.float32)
        self._forward(array, features, threads)
        for part in _parts(len(features), _LOGITS_PART):
            self._engine.logits(features[part], part.stop - part.start, logits[part])
        if self._folded.quantised is not None:  # bytes have no NaN
            logits[np.isnan(features).any(axis=1)] = np.nan
        return logits[0] if single else logits

    def predict(self, images: Any, *, threads: int | None = None) -> NDArray[np.float32]:
        """The output of the weights' own head, which for Keras weights is the output of that Keras model.

        The head is a Keras file's layers after the pooling, or was trained by ``fastmnv2.learn``. For weights with
        ImageNet's classes, the result is the softmax of ``logits``, without "background" if the file had no such class.
        An image gives the same bits in any batch.

        Args:
            images: as for ``embed``.
            threads: as for ``embed``.

        Returns:
            float32 ``[n,k]``, or ``[k]`` for one image.

        Raises:
            WeightsError: if the weights have neither a head nor a logits layer.
            ValueError, TypeError: as ``embed``.
        """
        if self._runner is None:
            first = 0 if self._folded.has_background else 1
            logits = self.logits(images, threads=threads)
            return self._folded.probabilities(logits)[..., first:].astype(np.float32)
        array, single = arguments.as_images(images, self._network)
        features = np.empty((array.shape[0], self._network.features), np.float32)
        self._forward(array, features, threads)
        outputs = self._runner.run(features)
        return outputs[0] if single else outputs

    def classify(
        self, images: Any, *, top: int | None = None, threads: int | None = None
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """The most probable classes of images: the head's classes, or ImageNet's if the weights have no head.

        Args:
            images: as for ``embed``.
            top: the number of classes; None for 5, or for all if there are fewer.
            threads: as for ``embed``.

        Returns:
            ``(indices, probabilities)``, each ``[n,top]`` or ``[top]`` for one image, the most probable class first.
            Indices are positions in ``classes``: in the head's outputs, or in ImageNet's 1001 classes, of which 0 is
            "background". Probabilities are the softmax over all classes, or the outputs of the head's sigmoid. A head
            with a single output has two classes, and the output is the probability of the second. If an int8 model's
            file ends with a uint8 softmax, probabilities are the outputs of that softmax, multiples of 1/256.

        Raises:
            WeightsError: if the weights have neither a head nor a logits layer.
            ValueError, TypeError: as ``embed``, and if ``top`` is out of range.
        """
        head = self._folded.head
        if head is None:
            self._need_logits()
        count = head.count if head else self._network.classes
        top = min(5, count) if top is None else top
        if not isinstance(top, (int, np.integer)) or not 1 <= top <= count:
            raise ValueError(f"top: expected an int from 1 to {count}, got {top!r}")
        scores: NDArray[np.floating]
        probabilities: NDArray[np.floating]
        if head:
            scores = probabilities = head.probabilities(self.predict(images, threads=threads))
        else:
            scores = logits = self.logits(images, threads=threads)
            probabilities = self._folded.probabilities(logits)
        indices = np.argsort(-scores, axis=-1, kind="stable")[..., :top]
        return indices, np.take_along_axis(probabilities, indices, axis=-1).astype(np.float32)

    def endpoints(
        self, images: Any, names: Iterable[str] | None = None, *, threads: int | None = None, raw: bool = False
    ) -> dict[str, NDArray[Any]]:
        """The hub module's named outputs.

        Args:
            images: as for ``embed``.
            names: some of ``fastmnv2.core.model.ENDPOINT_NAMES``, or one as a plain string; None for all 71. int8
                models also have those of ``fastmnv2.core.model.PROJECTION_NAMES``.
            threads: as for ``embed``.
            raw: return an int8 model's integers, uint8 or int8 as in its file; see ``quantization``.

        Returns:
            ``{name: float32 [n,height,width,channels]}``; ``'default'`` is ``[n,features]``. One image gives arrays
            without the first axis. These are the very values that ``embed`` computes on the way to the features.
            An int8 model gives NaN for every output of an image that contains a NaN, but ``raw`` integers have no NaN.

        Raises:
            ValueError: if a name is unknown, or ``raw`` is set for a float32 model.
            TypeError, ValueError: as ``embed``.
        """
        requested = ENDPOINT_NAMES if names is None else (names,) if isinstance(names, str) else tuple(names)
        for name in requested:
            self._check_name(name)
        quantised = self._folded.quantised
        if raw and quantised is None:
            raise ValueError("raw: expected an int8 model; this one computes in float32 and has no integers")
        array, single = arguments.as_images(images, self._network)
        n = array.shape[0]
        features: NDArray[np.float32] = np.empty((n, self._network.features), np.float32)
        records: dict[int, NDArray[Any]] = {}
        pooled = _ENDPOINT_INDEX[ENDPOINT_NAMES[-1]]
        indices = {name: _ENDPOINT_INDEX.get(name, pooled if raw else -1) for name in requested}  # -1: the features
        for index in sorted(set(indices.values()) - {-1}):
            shape = (*self._network.endpoints, *self._network.projections)[index][1:]
            records[index] = np.empty((n, *shape), np.float32 if quantised is None else np.uint8)
        self._forward(array, features, threads, records)
        found: dict[str, NDArray[Any]] = {}
        lost = np.isnan(features).any(axis=1)
        for name, index in indices.items():
            found[name] = features if index == -1 else records[index]
            if quantised is not None and index != -1:
                found[name] = quantised.integers(found[name]) if raw else quantised.numbers(found[name], name)
                if not raw:  # integers have no NaN
                    found[name][lost] = np.nan
            if name == "default":
                found[name] = found[name].reshape(n, self._network.features)
        return {name: value[0] for name, value in found.items()} if single else found

    def quantization(self, name: str) -> tuple[float, int]:
        """The scale and zero point of an int8 model's output: its integers q stand for ``(q - zero_point) * scale``.

        Args:
            name: as for ``endpoints``, or "image" or "logits".

        Returns:
            ``(scale, zero_point)``: a float with a float32's value, and an int.

        Raises:
            ValueError: if the name is unknown, or the model is float32.
        """
        quantised = self._folded.quantised
        if quantised is None:
            raise ValueError("expected an int8 model; this one computes in float32")
        if name == "logits" and self.has_logits:
            name = self._network.logits.scope
        elif name != "image":
            self._check_name(name)
        found = quantised.endpoint(name)
        return float(found.scale), found.zero_point

    def _check_name(self, name: str) -> None:
        names = ENDPOINT_NAMES if self._folded.quantised is None else (*ENDPOINT_NAMES, *PROJECTION_NAMES)
        if name not in names:
            raise ValueError(
                f"names: expected 'default' or one like {ENDPOINT_NAMES[2]!r} (all are in "
                f"fastmnv2.core.model.ENDPOINT_NAMES), got {name!r}"
            )

    def _forward(
        self,
        images: NDArray[Any],
        features: NDArray[np.float32],
        threads: int | None,
        records: dict[int, NDArray[Any]] | None = None,
    ) -> None:
        count = _threads.resolve(self._threads if threads is None else threads)
        uint8 = images.dtype.itemsize == 1
        n = images.shape[0]
        first = self._first * count
        if n <= first:
            out_of_range = self._engine.forward(images, uint8, n, features, count, records)
        else:
            out_of_range = False
            for part in _parts(n, first):
                recorded = {index: array[part] for index, array in records.items()} if records else None
                size = part.stop - part.start
                out_of_range |= self._engine.forward(images[part], uint8, size, features[part], count, recorded)
        if out_of_range and not self._warned:
            self._warned = True
            warnings.warn(
                "images: expected float values in [0, 1], got values below -0.25 or above 1.25; "
                "divide [0, 255] images by 255, map [-1, 1] images by (x + 1) / 2, or pass uint8",
                stacklevel=3,
            )

    def _need_logits(self) -> None:
        if not self.has_logits:
            raise WeightsError(
                f"{self._folded.origin}: these weights are without the logits layer "
                f"({self._network.logits.weights_name}), so they give features but no classes"
            )


def _unpickled(cls: type[Model], folded: "Folded", digest: str, options: dict[str, Any]) -> Model:
    from fastmnv2.weights import pickled

    return cls(pickled.unpack(folded, digest), **options)


def _parts(n: int, first: int) -> Iterator[slice]:
    """Split a batch into parts, between which Python can run signal handlers: ``first`` images, then 40 ms each."""
    start, done, size = time.perf_counter(), 0, first
    while done < n:
        stop = min(n, done + size)
        yield slice(done, stop)
        done = stop
        size = int(done * _PART_SECONDS / max(time.perf_counter() - start, 1e-6)) + 1


def _normalize(features: NDArray[np.float32]) -> None:
    """Scale each vector along the last axis to length 1, in place. Vectors of zeros stay unchanged."""
    lengths = np.linalg.norm(features.astype(np.float64), axis=-1, keepdims=True)
    features /= np.where(lengths == 0, 1, lengths)
