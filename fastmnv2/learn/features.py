"""Features of pictures and of their variants, kept by the content of their files."""

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.model import Model
from fastmnv2.image import decode
from fastmnv2.weights import cache

_ROWS = 200_000  # vectors that are kept, 1 GB
_CHUNK = 256  # pictures between two visits to the cache

# Flip, then the part of each edge that is kept, then where the part lies, from 0 to 1 down and across.
PLAIN = (False, 1.0, 0.5, 0.5)
VARIANTS = (PLAIN, (True, 1.0, 0.5, 0.5), (False, 0.85, 0.2, 0.3), (True, 0.85, 0.8, 0.7), (False, 0.7, 0.6, 0.4))
"""What ``augment`` trains on: the picture, its mirror image, and three crops."""


class Kept:
    """Vectors by key, in a SQLite file; whatever goes wrong with it, they are computed again."""

    def __init__(self, path: Path | None) -> None:
        self._base: sqlite3.Connection | None = None
        if path is None:
            return
        with contextlib.suppress(sqlite3.Error, OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=5)
            self._base.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, vector BLOB)")

    def get(self, keys: list[bytes], features: int) -> dict[bytes, NDArray[np.float32]]:
        """Those that are there, of so many features."""
        found: dict[bytes, NDArray[np.float32]] = {}
        if self._base is not None:
            with contextlib.suppress(sqlite3.Error):
                for key in keys:
                    row = self._base.execute("SELECT vector FROM features WHERE key = ?", (key,)).fetchone()
                    if row and len(row[0]) == 4 * features:
                        found[key] = np.frombuffer(row[0], "<f4")
        return found

    def put(self, vectors: dict[bytes, NDArray[np.float32]]) -> None:
        """Keep these; the oldest beyond ``_ROWS`` are dropped."""
        if self._base is not None and vectors:
            rows = [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()]
            with contextlib.suppress(sqlite3.Error), self._base:
                self._base.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows)
                self._base.execute(
                    "DELETE FROM features WHERE rowid <= (SELECT MAX(rowid) FROM features) - ?", (_ROWS,)
                )

    def close(self) -> None:
        """Let go of the file."""
        if self._base is not None:
            self._base.close()


def default_place() -> Path:
    """Where vectors are kept unless told otherwise."""
    return cache.folder() / "features.sqlite"


def compute(
    model: Model,
    digest: str,
    paths: list[str],
    variants: tuple[Any, ...],
    *,
    method: str,
    place: Path | None,
    skip: Callable[[str, object], None],
    advance: Callable[[int], object] = lambda done: None,
) -> tuple[NDArray[np.float32], list[bytes], NDArray[np.intp]]:
    """Features of pictures.

    Returns:
        float32 ``[pictures,variants,features]``, the SHA-256 of each picture's file, and which of ``paths`` they are;
        those that can't be read are handed to ``skip`` and left out.
    """
    kept = Kept(place)
    rows, hashes, places = [], [], []
    with contextlib.closing(kept):
        for start in range(0, len(paths), _CHUNK):
            wanted = {}
            for index in range(start, min(start + _CHUNK, len(paths))):
                try:
                    wanted[index] = hashlib.sha256(Path(paths[index]).read_bytes()).digest()
                except OSError as error:
                    skip(paths[index], error.strerror or error)
            found = _chunk(model, kept, digest, paths, wanted, variants, method, skip)
            for index, content in wanted.items():
                if index in found:
                    rows.append(found[index])
                    hashes.append(content)
                    places.append(index)
            advance(min(start + _CHUNK, len(paths)))
    shape = (-1, len(variants), model.network.features)
    features = np.stack(rows).reshape(shape) if rows else np.empty((0, *shape[1:]), np.float32)
    return features, hashes, np.array(places, np.intp)


def _chunk(
    model: Model,
    kept: Kept,
    digest: str,
    paths: list[str],
    wanted: dict[int, bytes],
    variants: tuple[Any, ...],
    method: str,
    skip: Callable[[str, object], None],
) -> dict[int, NDArray[np.float32]]:
    keys = {
        (index, number): hashlib.sha256(content + f"{digest} {method} {variant}".encode()).digest()
        for index, content in wanted.items()
        for number, variant in enumerate(variants)
    }
    known = kept.get(list(keys.values()), model.network.features)
    missing = [place for place, key in keys.items() if key not in known]
    bad: set[int] = set()

    def failed(error: Any) -> None:
        index = missing[error.index][0]
        if index not in bad:
            skip(paths[index], error.reason)
        bad.add(index)

    items = _pictures(paths, missing, variants)
    done = list(model.iter_embed_images(items, method=method, on_error=failed))  # type: ignore[arg-type]
    good = [place for place in missing if place[0] not in bad]
    fresh = {keys[place]: vector for place, (_, vector) in zip(good, done, strict=True)}
    kept.put(fresh)
    known |= fresh
    return {
        index: np.stack([known[keys[index, number]] for number in range(len(variants))])
        for index in wanted
        if index not in bad
    }


def _pictures(paths: list[str], places: list[tuple[int, int]], variants: tuple[Any, ...]) -> Iterator[Any]:
    """Paths where the whole picture is wanted, which are decoded on all cores, and arrays of the other variants."""
    last, picture = -1, None
    for index, number in places:
        if variants[number] == PLAIN:
            yield paths[index]
            continue
        if index != last:
            try:
                last, picture = index, decode.read(paths[index])
            except (OSError, ValueError):
                picture = None
        yield paths[index] if picture is None else _variant(picture, variants[number])


def _variant(picture: NDArray[np.uint8], variant: tuple[bool, float, float, float]) -> NDArray[np.uint8]:
    flip, part, down, across = variant
    height, width = (max(1, round(edge * part)) for edge in picture.shape[:2])
    top, left = round((picture.shape[0] - height) * down), round((picture.shape[1] - width) * across)
    found = picture[top : top + height, left : left + width]
    return np.ascontiguousarray(found[:, ::-1] if flip else found)
