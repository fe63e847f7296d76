"""Features of pictures and of their variants, cached by the content of the files."""

import contextlib
import dataclasses
import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import ImageError
from fastmnv2.core.model import Model
from fastmnv2.image import decode, embed, resizing
from fastmnv2.image.decode import Options
from fastmnv2.image.resizing import Method
from fastmnv2.weights import cache

_ROWS = 200_000  # vectors in the cache, 1 GB
_CHUNK = 256  # pictures between two writes to the cache
_BATCH = 32  # files and variants in memory at a time

Variant = tuple[bool, float, float, float]
"""Whether to flip, the fraction of each edge to keep, and the position of the crop down and across, from 0 to 1."""

PLAIN = (False, 1.0, 0.5, 0.5)
VARIANTS = (PLAIN, (True, 1.0, 0.5, 0.5), (False, 0.85, 0.2, 0.3), (True, 0.85, 0.8, 0.7), (False, 0.7, 0.6, 0.4))
"""The variants for ``augment``: the picture, its mirror image, and three crops."""


class VectorCache:
    """A cache of vectors by key in a SQLite file. If the file can't be used, vectors are computed again."""

    def __init__(self, path: Path | None) -> None:
        self._base: sqlite3.Connection | None = None
        if path is None:
            return
        with contextlib.suppress(sqlite3.Error, OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=5)
            self._base.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, vector BLOB)")

    def get(self, keys: list[bytes], features: int) -> dict[bytes, NDArray[np.float32]]:
        """The cached vectors of these keys that have the right number of features."""
        found: dict[bytes, NDArray[np.float32]] = {}
        if self._base is not None:
            with contextlib.suppress(sqlite3.Error):
                for key in keys:
                    row = self._base.execute("SELECT vector FROM features WHERE key = ?", (key,)).fetchone()
                    if row and len(row[0]) == 4 * features:
                        found[key] = np.frombuffer(row[0], "<f4")
        return found

    def put(self, vectors: dict[bytes, NDArray[np.float32]]) -> None:
        """Store these vectors. If there are more than ``_ROWS``, drop the oldest."""
        if self._base is not None and vectors:
            rows = [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()]
            with contextlib.suppress(sqlite3.Error), self._base:
                self._base.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows)
                self._base.execute(
                    "DELETE FROM features WHERE rowid <= (SELECT MAX(rowid) FROM features) - ?", (_ROWS,)
                )

    def close(self) -> None:
        """Close the file."""
        if self._base is not None:
            self._base.close()


def default_path() -> Path:
    """The default file of the cache."""
    return cache.folder() / "features.sqlite"


def compute(
    model: Model,
    digest: str,
    paths: list[str],
    variants: tuple[Variant, ...],
    *,
    place: Path | None,
    skip: Callable[[str, object], None],
    method: Method = "tf2",
    options: Options | None = None,
    advance: Callable[[int], object] = lambda done: None,
) -> tuple[NDArray[np.float32], list[bytes], NDArray[np.intp]]:
    """Features of pictures and of their variants.

    Args:
        model: computes the features.
        digest: the digest of the model's weights, a part of the cache's keys.
        paths: the pictures' paths.
        variants: the variants of each picture, such as ``VARIANTS``.
        place: the file of the cache; None for no cache.
        skip: called with the path and the reason for each picture that can't be read. Such pictures are skipped.
        method: how pictures are resized, if ``options`` is not given.
        options: how pictures and their variants are decoded and resized.
        advance: called with the number of finished pictures.

    Returns:
        float32 ``[pictures,variants,features]``, the SHA-256 of each picture's file, and the pictures' indices in
        ``paths``.
    """
    options = dataclasses.replace(options or Options(method), size=model.network.size)
    vector_cache = VectorCache(place)
    rows, hashes, indices = [], [], []
    with contextlib.closing(vector_cache):
        for start in range(0, len(paths), _CHUNK):
            chunk = _Chunk(paths[start : start + _CHUNK], variants, options, digest, vector_cache)
            for index, content, vectors in chunk.run(model, skip):
                rows.append(vectors)
                hashes.append(content)
                indices.append(start + index)
            advance(min(start + _CHUNK, len(paths)))
    shape = (-1, len(variants), model.network.features)
    features = np.stack(rows).reshape(shape) if rows else np.empty((0, *shape[1:]), np.float32)
    return features, hashes, np.array(indices, np.intp)


class _Chunk:
    """Some pictures. Each file is read once, and the same bytes are hashed, looked up in the cache and decoded."""

    def __init__(
        self, paths: list[str], variants: tuple[Variant, ...], options: Options, digest: str, vector_cache: VectorCache
    ) -> None:
        self._paths, self._variants, self._options, self._digest = paths, variants, options, digest
        self._cache = vector_cache
        self._hashes: dict[int, bytes] = {}  # SHA-256 of each picture's file
        self._vectors: dict[tuple[int, int], NDArray[np.float32]] = {}  # by picture and variant
        self._requested: list[tuple[int, int]] = []  # pictures and variants to compute, in order
        self._errors: dict[int, object] = {}  # the reason for each picture that can't be read

    def run(
        self, model: Model, skip: Callable[[str, object], None]
    ) -> Iterator[tuple[int, bytes, NDArray[np.float32]]]:
        """Index, hash and vectors ``[variants,features]`` of each picture that can be read."""

        def failed(error: ImageError) -> None:
            self._errors.setdefault(self._requested[error.index][0], error.reason)

        results = embed.vectors(
            model, self._items(model), self._options, batch_size=_BATCH, threads=None, on_error=failed, normalize=False
        )
        fresh = {}
        try:
            with contextlib.closing(results):
                for result in results:
                    place = self._requested[result.index]
                    self._vectors[place] = fresh[self._key(*place)] = result.value
        finally:  # cache them even if this training is interrupted
            self._cache.put(fresh)
        for index, path in enumerate(self._paths):
            if index in self._errors:
                skip(path, self._errors[index])
            else:
                yield (
                    index,
                    self._hashes[index],
                    np.stack([self._vectors[index, v] for v in range(len(self._variants))]),
                )

    def _key(self, index: int, variant: int) -> bytes:
        options = [str(value) for value in dataclasses.astuple(self._options)]
        settings = f"{self._digest} {options} {self._variants[variant]}"
        return hashlib.sha256(self._hashes[index] + settings.encode()).digest()

    def _items(self, model: Model) -> Iterator[Any]:
        """The pictures and variants whose vectors are not in the cache."""
        for index, path in enumerate(self._paths):
            try:
                data, self._hashes[index] = decode.content(path)
            except (OSError, ValueError) as error:
                self._errors[index] = ImageError.of(error, index, path).reason
                continue
            keys = {self._key(index, number): number for number in range(len(self._variants))}
            cached = self._cache.get(list(keys), model.network.features)
            self._vectors |= {(index, keys[key]): vector for key, vector in cached.items()}
            missing = [number for key, number in keys.items() if key not in cached]
            yield from self._variants_of(index, data, missing)

    def _variants_of(self, index: int, data: bytes, missing: list[int]) -> Iterator[Any]:
        """Items for ``embed``: the plain variant as the file's bytes, decoded on all cores; others as small arrays."""
        picture = None
        for number in missing:
            item: Any = data
            if self._variants[number] != PLAIN:
                try:
                    picture = decode.read_with(data, self._options) if picture is None else picture
                except Exception as error:
                    self._errors[index] = ImageError.of(error, index, decode.name_of(data)).reason
                    return
                item = _variant(picture, self._variants[number], self._options)
            self._requested.append((index, number))
            yield item


def _variant(picture: NDArray[np.uint8], variant: Variant, options: Options) -> NDArray[np.float32]:
    """A part of a picture, resized at once, because many large pictures would not fit in memory."""
    flip, part, down, across = variant
    height, width = (max(1, round(edge * part)) for edge in picture.shape[:2])
    top, left = round((picture.shape[0] - height) * down), round((picture.shape[1] - width) * across)
    found = picture[top : top + height, left : left + width]
    found = np.ascontiguousarray(found[:, ::-1] if flip else found)
    return resizing.resize(found, options.size, method=options.method, crop=options.crop)
