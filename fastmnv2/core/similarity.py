"""Pairs of similar vectors, such as near-duplicates among pictures."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1024  # rows; a block of similarities takes 4 MB
_MARGIN = 1e-4  # larger than the error of float32 dot products of thousands of numbers

PAIR = np.dtype([("i", np.int64), ("j", np.int64), ("similarity", np.float64)])
"""The type of the pairs: two row numbers, i before j, and their cosine similarity."""


def pairs(vectors: Any, threshold: float, *, most: int | None = None) -> NDArray[np.void]:
    """All pairs of vectors whose cosine similarity is at least ``threshold``, the most similar first.

    Every pair is compared, in blocks. In addition to the vectors and the result, this takes a few times 10 MB of
    memory for any number of vectors. 40,000 vectors take about half a minute on two cores.

    >>> for i, j, similarity in fastmnv2.pairs(vectors, 0.95):  # doctest: +SKIP
    ...     print(paths[i], paths[j], similarity)

    Args:
        vectors: ``[n,d]``, such as ``embed_images`` returns, normalised or not; a memory-mapped array works too.
        threshold: the minimum similarity, from -1 to 1.
        most: return only this many pairs, the most similar ones; None for all.

    Returns:
        An array ``[pairs]`` with the fields ``i`` and ``j`` (row numbers, ``i < j``) and ``similarity``, sorted by
        descending similarity, then by ``i`` and ``j``. Similarities are float64, rounded to 12 decimals, so that equal
        vectors have 1. A vector with a NaN or an infinity is in no pair, and a vector of zeros only in pairs of
        similarity 0.

    Raises:
        TypeError, ValueError: if an argument is not as above.
    """
    array = np.asarray(vectors)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"vectors: expected numbers, got {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"vectors: expected [n, d], got {list(array.shape)}")
    if not isinstance(threshold, (int, float, np.integer, np.floating)):
        raise TypeError(f"threshold: expected a number, got {threshold!r}")
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold: expected a cosine similarity from -1 to 1, got {threshold!r}")
    if most is not None and (not isinstance(most, (int, np.integer)) or most < 1):
        raise ValueError(f"most: expected a positive int, got {most!r}")
    found, count = [np.empty(0, PAIR)], 0
    for top in range(0, len(array), _BLOCK):
        rows = _units(array[top : top + _BLOCK])
        for left in range(top, len(array), _BLOCK):
            columns = rows if left == top else _units(array[left : left + _BLOCK])
            fresh = _in_block(rows, columns, threshold, top, left)
            found.append(fresh)
            count += len(fresh)
            if most is not None and count > 2 * most + _BLOCK:
                found = [_sorted(found)[:most]]
                count = len(found[0])
                threshold = max(threshold, float(found[0]["similarity"][-1]))
    return _sorted(found)[:most]


def _units(rows: NDArray[Any]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0)
    with np.errstate(invalid="ignore"):
        wide /= np.where(largest == 0, 1, largest)  # otherwise squares of huge or tiny values overflow or vanish
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        return np.asarray(wide / np.where(lengths == 0, 1, lengths))


def _in_block(
    rows: NDArray[np.float64], columns: NDArray[np.float64], threshold: float, top: int, left: int
) -> NDArray[np.void]:
    """The pairs in a block: float32 finds candidates, and float64 recomputes their similarity."""
    with np.errstate(invalid="ignore"):
        near = rows.astype(np.float32) @ columns.astype(np.float32).T >= threshold - _MARGIN
    if top == left:
        near = np.triu(near, 1)
    i, j = near.nonzero()
    parts = []
    for start in range(0, len(i), _BLOCK):
        a, b = i[start : start + _BLOCK], j[start : start + _BLOCK]
        part = np.empty(len(a), PAIR)
        part["i"], part["j"] = top + a, left + b
        part["similarity"] = np.clip((rows[a] * columns[b]).sum(axis=1).round(12), -1, 1)
        parts.append(part[part["similarity"] >= threshold])
    return np.concatenate(parts) if parts else np.empty(0, PAIR)


def _sorted(parts: list[NDArray[np.void]]) -> NDArray[np.void]:
    found = np.concatenate(parts)
    return found[np.lexsort((found["j"], found["i"], -found["similarity"]))]
