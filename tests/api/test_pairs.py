"""Similar vectors: the search in blocks finds the same pairs as a full matrix."""

import tracemalloc

import numpy as np
import pytest

import fastmnv2


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.RandomState(3)
    found = np.abs(rng.normal(size=(301, 40))).astype(np.float32) * rng.uniform(0.1, 100, (301, 1)).astype(np.float32)
    found[7], found[200] = 0, 3 * found[5]
    found[9, 3] = np.nan
    return found


@pytest.mark.parametrize("block", [pytest.param(1, marks=pytest.mark.slow), 7, 64, 1024])
@pytest.mark.parametrize("threshold", [-1, 0.0, 0.8, 0.999])
def test_the_same_pairs_as_the_whole_matrix(vectors, monkeypatch, block, threshold):
    monkeypatch.setattr("fastmnv2.core.similarity._BLOCK", block)
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit = wide / np.where(lengths == 0, 1, lengths)
    matrix = (unit @ unit.T).round(12)
    found = fastmnv2.pairs(vectors, threshold)
    wanted = {(i, j) for i, j in zip(*np.nonzero(np.triu(matrix >= threshold, 1)), strict=True)}
    assert {(i, j) for i, j, _ in found} == wanted
    assert len(found) == len(wanted)
    np.testing.assert_allclose(found["similarity"], [matrix[i, j] for i, j, _ in found], atol=1e-12)
    assert (np.diff(found["similarity"]) <= 0).all()
    most = fastmnv2.pairs(vectors, threshold, most=10)
    np.testing.assert_array_equal(most, found[:10])


def test_duplicates_and_dtypes(vectors):
    for dtype in (np.float16, np.float32, np.float64):
        (first, *_) = fastmnv2.pairs(vectors[:201].astype(dtype), 0.99)
        i, j, similarity = first
        assert (i, j) == (5, 200)
        assert similarity == pytest.approx(1, abs=1e-5)
    assert len(fastmnv2.pairs(np.ones((3, 2), np.int64), 1)) == 3
    assert len(fastmnv2.pairs(np.empty((0, 5)), 0.5)) == len(fastmnv2.pairs(np.ones((1, 5)), 0.5)) == 0


def test_memory_is_limited_to_blocks():
    many = np.random.RandomState(0).normal(size=(6000, 16)).astype(np.float32)
    tracemalloc.start()
    try:
        fastmnv2.pairs(many, 0.99)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6000 * 6000 * 4 / 5


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((["a"], 0.5), TypeError),
        ((np.ones(3), 0.5), ValueError),
        ((np.ones((3, 3)), 1.5), ValueError),
        ((np.ones((3, 3)), float("nan")), ValueError),
    ],
)
def test_wrong_arguments_are_refused(arguments, error):
    with pytest.raises(error, match=r"expected"):
        fastmnv2.pairs(*arguments)
    with pytest.raises(ValueError, match="most"):
        fastmnv2.pairs(np.ones((3, 3)), 0.5, most=0)
