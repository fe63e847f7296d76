"""How good predictions are."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ClassMeasures(NamedTuple):
    """Of one class: how many pictures it has, and what share of the predicted are right and of the right predicted."""

    pictures: int
    precision: float
    recall: float


class Bin(NamedTuple):
    """Predictions of about the same probability: their mean, the share that is right, how many there are."""

    said: float
    right: float
    size: int


class Measures:
    """Of probabilities ``[n,classes]`` against the classes' members, bool ``[n,classes]``."""

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
        """Share of pictures whose label, or all of whose labels, are right."""
        return float(self.right.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Where the accuracy on other such pictures is with 95 %: Wilson's score interval (1927)."""
        n, p, z = len(self.right), self.accuracy, 1.959964
        centre, spread = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return float((centre - spread) / (1 + z * z / n)), float((centre + spread) / (1 + z * z / n))

    def classes(self) -> list[ClassMeasures]:
        """Of each class; where nothing was predicted, precision is NaN."""
        hits = (self.predicted & self.members).sum(axis=0)
        said, there = self.predicted.sum(axis=0), self.members.sum(axis=0)
        with np.errstate(invalid="ignore"):
            return [
                ClassMeasures(int(n), float(h / s), float(h / n)) for h, s, n in zip(hits, said, there, strict=True)
            ]

    def confusion(self) -> NDArray[np.intp]:
        """``[is,predicted]``: how many pictures; for exclusive classes."""
        found = np.zeros((self.members.shape[1],) * 2, np.intp)
        np.add.at(found, (self.members.argmax(axis=1), self.predicted.argmax(axis=1)), 1)
        return found

    def confused(self, most: int = 5) -> list[tuple[int, int, int]]:
        """(is, predicted, how many) of the classes that are taken for others, most first."""
        counts = self.confusion()
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts, axis=None, kind="stable")[:most]
        pairs = [
            (int(i), int(j), int(counts[i, j])) for i, j in zip(*np.unravel_index(order, counts.shape), strict=True)
        ]
        return [pair for pair in pairs if pair[2]]

    def reliability(self, bins: int = 10) -> list[Bin]:
        """Of the predictions made, by the probability that they were given; empty bins are left out."""
        if self.exclusive:
            said, right = self.probabilities.max(axis=1), self.right
        else:
            said, right = self.probabilities.ravel(), self.members.ravel()
        place = np.minimum((said * bins).astype(int), bins - 1)
        found = [(place == number).nonzero()[0] for number in range(bins)]
        return [Bin(float(said[rows].mean()), float(right[rows].mean()), len(rows)) for rows in found if len(rows)]

    def worst(self, most: int = 24) -> list[int]:
        """Rows of wrong predictions, those that give the least to what is right first."""
        truth = np.where(self.members, self.probabilities, 1 - self.probabilities).min(axis=1)
        rows = np.flatnonzero(~self.right)
        return [int(row) for row in rows[np.argsort(truth[rows], kind="stable")][:most]]
