"""Logistic regression on features; cross-validation chooses the strength of its regularisation."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

try:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
    from threadpoolctl import threadpool_limits
except ImportError as _error:
    _message = "training a head needs scikit-learn: pip install 'fastmnv2[learn]'"
    raise ImportError(_message, name="sklearn") from _error

_Array = NDArray[np.float32]
_Wide = NDArray[np.float64]

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of scikit-learn's C to try, on standardised features. A smaller C regularises more."""


class Linear(NamedTuple):
    """A linear layer on plain features: kernel ``[features,classes]`` and bias ``[classes]``."""

    kernel: _Array
    bias: _Array


class Choice(NamedTuple):
    """The result of the cross-validation.

    Attributes:
        strength: the best of ``STRENGTHS``.
        losses: mean log-loss per picture at each strength that was tried.
        probabilities: float64 ``[n,classes]`` of each picture, from the layer that was not trained on it.
    """

    strength: float
    losses: dict[float, float]
    probabilities: _Wide


def folds(members: NDArray[np.bool_], groups: list[Any], count: int, seed: int) -> list[NDArray[np.intp]]:
    """Row numbers of each fold. Exclusive classes are spread evenly, and equal files are in the same fold."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    ids = np.array([numbers[group] for group in groups])
    if (members.sum(axis=1) == 1).all():
        split = StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(members, members.argmax(1), ids)
    else:
        order = np.random.RandomState(seed).permutation(len(numbers))
        split = GroupKFold(count).split(members, None, order[ids])
    return [np.sort(rows) for _, rows in split]


def choose(features: _Array, members: NDArray[np.bool_], parts: list[NDArray[np.intp]], *, balanced: bool) -> Choice:
    """Find the strength with the lowest log-loss on held-out pictures.

    ``features`` are ``[n,variants,features]``: training uses all variants, the loss only the first.
    """
    losses: dict[float, float] = {}
    best: _Wide = np.empty(0)
    every = np.arange(len(features))
    for strength in STRENGTHS:
        found = np.zeros(members.shape)
        for part in parts:
            rest = np.setdiff1d(every, part)
            layer = fit(features[rest], members[rest], strength, balanced=balanced)
            found[part] = probabilities(layer, features[part, 0], exclusive=_exclusive(members))
        losses[strength] = _log_loss(found, members)
        if losses[strength] == min(losses.values()):
            best = found
        elif len(losses) >= 3 and all(losses[s] > min(losses.values()) for s in list(losses)[-2:]):
            break  # larger strengths only get worse
    return Choice(min(losses, key=lambda strength: losses[strength]), losses, best)


def _exclusive(members: NDArray[np.bool_]) -> bool:
    return bool((members.sum(axis=1) == 1).all())


def _log_loss(found: _Wide, members: NDArray[np.bool_]) -> float:
    found = np.clip(found, 1e-12, 1 - 1e-12)
    if _exclusive(members):
        return float(-np.log(found[members]).mean())
    return float(-np.where(members, np.log(found), np.log(1 - found)).sum(axis=1).mean())


def probabilities(layer: Linear, features: _Array, *, exclusive: bool) -> _Wide:
    """Apply the layer to features ``[n,features]``: softmax for exclusive classes, else a sigmoid per class."""
    from fastmnv2.core import head

    logits = features.astype(np.float64) @ layer.kernel.astype(np.float64) + layer.bias
    return head.softmax(logits) if exclusive else head.sigmoid(logits)


def fit(features: _Array, members: NDArray[np.bool_], strength: float, *, balanced: bool) -> Linear:
    """Logistic regression on standardised features, returned as a layer on plain features."""
    variants = features.shape[1]
    x = features.reshape(-1, features.shape[2])
    mean, deviation = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    deviation[deviation < 1e-6] = np.inf  # constant features carry no information
    x = ((x - mean) / deviation).astype(np.float32)
    wanted = members.repeat(variants, axis=0)
    # One thread, because the products are too small for a second one to pay off.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if _exclusive(members):
            weights, bias = _softmax_layer(x, wanted, strength, balanced)
        else:
            columns = [_one_class(x, wanted[:, i], strength, balanced) for i in range(members.shape[1])]
            weights, bias = np.stack([c[0] for c in columns], 1), np.array([c[1] for c in columns])
    kernel = weights / deviation[:, np.newaxis]
    return Linear(kernel.astype(np.float32), (bias - mean @ kernel).astype(np.float32))


def _regression(strength: float, balanced: bool) -> Any:
    return LogisticRegression(C=strength, class_weight="balanced" if balanced else None, max_iter=300, tol=1e-3)


def _softmax_layer(x: _Array, wanted: NDArray[np.bool_], strength: float, balanced: bool) -> tuple[_Wide, _Wide]:
    count = wanted.shape[1]
    weights, bias = np.zeros((x.shape[1], count)), np.full(count, -30.0)  # -30: for classes that this fold lacks
    labels = wanted.argmax(axis=1)
    present = np.unique(labels)
    if len(present) == 1:
        bias[present] = 0
        return weights, bias
    found = _regression(strength, balanced).fit(x, labels)
    if len(present) == 2:  # scikit-learn has only the second class's column z; softmax(-z/2, z/2) is sigmoid(z)
        weights[:, present] = np.stack([-found.coef_[0], found.coef_[0]], 1) / 2
        bias[present] = np.array([-found.intercept_[0], found.intercept_[0]]) / 2
    else:
        weights[:, present], bias[present] = found.coef_.T, found.intercept_
    return weights, bias


def _one_class(x: _Array, wanted: NDArray[np.bool_], strength: float, balanced: bool) -> tuple[_Wide, float]:
    if wanted.all() or not wanted.any():
        return np.zeros(x.shape[1]), 30.0 if wanted.all() else -30.0
    found = _regression(strength, balanced).fit(x, wanted)
    return found.coef_[0], float(found.intercept_[0])
