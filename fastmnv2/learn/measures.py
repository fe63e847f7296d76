"""Quality measures of predictions."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ClassMeasures(NamedTuple):
    """Picture count, precision and recall of one class."""

    pictures: int
    precision: float
    recall: float


class Bin(NamedTuple):
    """Predictions of similar probability."""

    probability: float  # the mean of the predicted probabilities
    right: float  # the share of predictions that are right
    size: int  # the number of predictions


class Measures:
    """Measures of predictions. ``probabilities`` and the true classes, bool ``members``, are both ``[n,classes]``."""

    def __init__(self, probabilities: NDArray[np.float64], members: NDArray[np.bool_], exclusive: bool) -> None:
        self.probabilities, self.members, self.exclusive = probabilities, members, exclusive
        if exclusive:
            self.predicted = np.zeros_like(members)
            self.predicted[np.arange(len(members)), probabilities.argmax(axis=1)] = True
        else:
            self.predicted = probabilities >= 0.5
        self.right = (self.predicted == members).all(axis=1)

    @property
    def accuracy(self) -> float:
        """Share of pictures whose labels are all right."""
        return float(self.right.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy on similar pictures: Wilson's score interval (1927)."""
        n, p, z = len(self.right), self.accuracy, 1.959964
        centre, spread = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return float((centre - spread) / (1 + z * z / n)), float((centre + spread) / (1 + z * z / n))

    def classes(self) -> list[ClassMeasures]:
        """Measures of each class. If a class was never predicted, its precision is NaN."""
        hits = (self.predicted & self.members).sum(axis=0)
        predicted, actual = self.predicted.sum(axis=0), self.members.sum(axis=0)
        with np.errstate(invalid="ignore"):
            return [
                ClassMeasures(int(n), float(h / p), float(h / n))
                for h, p, n in zip(hits, predicted, actual, strict=True)
            ]

    def confusion(self) -> NDArray[np.intp]:
        """Number of pictures, ``[true class, predicted class]``; for exclusive classes."""
        found = np.zeros((self.members.shape[1],) * 2, np.intp)
        np.add.at(found, (self.members.argmax(axis=1), self.predicted.argmax(axis=1)), 1)
        return found

    def confused(self, most: int = 5) -> list[tuple[int, int, int]]:
        """The most frequent confusions: (true class, predicted class, number of pictures)."""
        counts = self.confusion()
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts, axis=None, kind="stable")[:most]
        pairs = [
            (int(i), int(j), int(counts[i, j])) for i, j in zip(*np.unravel_index(order, counts.shape), strict=True)
        ]
        return [pair for pair in pairs if pair[2]]

    def reliability(self, bins: int = 10) -> list[Bin]:
        """The predictions in bins of their probability, without empty bins."""
        if self.exclusive:
            predicted, right = self.probabilities.max(axis=1), self.right
        else:
            predicted, right = self.probabilities.ravel(), self.members.ravel()
        numbers = np.minimum((predicted * bins).astype(int), bins - 1)
        found = [(numbers == number).nonzero()[0] for number in range(bins)]
        return [Bin(float(predicted[rows].mean()), float(right[rows].mean()), len(rows)) for rows in found if len(rows)]

    def worst(self, most: int = 24) -> list[int]:
        """Rows of wrong predictions, starting with the lowest probability of the truth."""
        truth = np.where(self.members, self.probabilities, 1 - self.probabilities).min(axis=1)
        rows = np.flatnonzero(~self.right)
        return [int(row) for row in rows[np.argsort(truth[rows], kind="stable")][:most]]
