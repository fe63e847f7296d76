"""From labelled pictures to a model with a head, and what it can be expected to do."""

import dataclasses
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.head import Head, Step
from fastmnv2.core.model import Model
from fastmnv2.core.progress import progress as progress_bar
from fastmnv2.image.decode import Options
from fastmnv2.image.resizing import Method
from fastmnv2.learn import dataset, features, regression
from fastmnv2.learn.measures import Measures
from fastmnv2.weights.resolve import resolve
from fastmnv2.weights.tensors import Folded

KEEP = "default"

Precision = Literal["float32", "int8"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A trained model and how it was found.

    Attributes:
        model: with the head; ``predict`` gives ``[n,classes]``.
        data: the pictures that were trained on.
        measures: of predictions for pictures that the predicting head was not trained on.
        strength: scikit-learn's C, on standardised features, that was chosen.
        losses: cross-validated log-loss a picture by strength.
        augmented: whether mirror images and crops were trained on too.
        notes: what a reader should know, one sentence each.
    """

    model: Model
    data: dataset.Dataset
    measures: Measures
    strength: float
    losses: dict[float, float]
    augmented: bool
    notes: tuple[str, ...]
    folded: Folded

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a native file, for ``fastmnv2.load`` and ``fastmnv2 classify --weights``."""
        from fastmnv2.weights.forms import native

        native.write(path, self.folded)


# The longest notes that a training adds to those of its weights.
_SPACE = ("x" * 1000,) * 4


def study(
    data: Any,
    *,
    weights: Any = None,
    precision: Precision | None = None,
    augment: bool | Literal["auto"] = False,
    class_weight: Literal["balanced"] | None = "balanced",
    folds: int = 5,
    method: Method = "tf2",
    options: Options | None = None,
    follow_links: bool = False,
    seed: int = 0,
    threads: int | None = None,
    cache: str | os.PathLike[str] | None = KEEP,
    on_skip: Callable[[str, object], None] | None = None,
    progress: bool = False,
) -> Outcome:
    """Train a linear head on labelled pictures, by logistic regression whose strength is chosen by cross-validation.

    Args:
        data: a folder with a folder of pictures for each class; a CSV, TSV or Parquet table with the columns path
            (relative to the table) and label; a dict or pairs of path and label. A table of two columns needs no
            header. A label may be several names, as a list or separated by ";" or "|", or an empty list for none of
            the classes, and a path may come in several rows. That makes it a multi-label task: each class then has
            a sigmoid of its own instead of the softmax over all. Pictures whose label is missing (null, NaN, or an
            empty text in a task of single labels) are left out and reported to ``on_skip``.
        weights: what the features come from, as for ``fastmnv2.load``. Their own head is not used.
        precision: of the features and of the model that is made, as for ``fastmnv2.load``. The model's file says
            which, so that later it is loaded with the same.
        augment: train on mirror images and crops too: True, False, or "auto", where that lessens the log-loss.
        class_weight: "balanced" gives classes of few pictures as much weight as those of many; None counts pictures.
        folds: parts of the cross-validation; fewer where a class has fewer pictures. Equal files share a part.
        method: how pictures are resized, as for ``fastmnv2.embed_images``. Predict with the same.
        options: how pictures are decoded and resized, all settings in one value, instead of ``method``.
        follow_links: search folders within the folders of classes that are symbolic links too.
        seed: of the division into folds.
        threads: the most threads to use for features.
        cache: a file that keeps features by the pictures' content; None for none.
        on_skip: is called with the path and the reason for each picture that is left out; by default, each is a
            warning.
        progress: draw a bar on stderr.

    Returns:
        an ``Outcome``.

    Raises:
        FileNotFoundError, TypeError, ValueError: ``data`` is not as above, or there are fewer than two classes or
            fewer than two readable pictures of one, or names of classes are too long for a native file.
        ImportError: scikit-learn or Pillow is not installed.
        WeightsError: as ``fastmnv2.load``.
    """
    if not isinstance(folds, int) or folds < 2:
        raise ValueError(f"folds: expected an int of at least 2, got {folds!r}")
    if augment not in (True, False, "auto"):
        raise ValueError(f"augment: expected True, False or 'auto', got {augment!r}")
    if class_weight not in ("balanced", None):
        raise ValueError(f"class_weight: expected 'balanced' or None, got {class_weight!r}")
    skip = on_skip or (lambda path, why: warnings.warn(f"skipped {path}: {why}", stacklevel=3))
    asked = dataset.read(data, skip, follow_links=follow_links)
    folded = dataclasses.replace(resolve(weights, head=False, precision=precision).without_logits(), file="")
    _check_names(folded, asked.classes)
    place = features.default_place() if cache == KEEP else Path(cache) if cache is not None else None
    variants = features.VARIANTS if augment else features.VARIANTS[:1]
    with progress_bar("features", len(asked.paths), unit="pictures") if progress else _nothing() as advance:
        x, hashes, rows = features.compute(
            Model(folded, threads=threads), folded.digest, asked.paths, variants,
            options=options or Options(method), place=place, skip=skip, advance=advance,
        )  # fmt: skip
    found = asked.only(rows)
    parts = regression.folds(found.members, hashes, _check(found, folds), seed)
    balanced = class_weight == "balanced"
    choice = regression.choose(x[:, :1], found.members, parts, balanced=balanced)
    augmented = False
    if augment:
        other = regression.choose(x, found.members, parts, balanced=balanced)
        augmented = augment is True or min(other.losses.values()) < min(choice.losses.values())
        choice = other if augmented else choice
    layer = regression.fit(x if augmented else x[:, :1], found.members, choice.strength, balanced=balanced)
    head = _head(layer, found)
    notes = _notes(found, hashes, len(parts), choice, augmented)
    folded = dataclasses.replace(folded, head=head, notes=(*folded.notes, *notes))
    measures = Measures(choice.probabilities, found.members, found.exclusive)
    return Outcome(
        Model(folded, threads=threads), found, measures, choice.strength, choice.losses, augmented, notes, folded
    )


def _check_names(folded: Folded, classes: tuple[str, ...]) -> None:
    """WeightsError if the model could not be saved, which is better known before the training."""
    from fastmnv2.weights.forms import native

    features, count = folded.network.features, len(classes)
    layer = {"kernel": np.zeros((features, count), np.float32), "bias": np.zeros(count, np.float32)}
    head = Head((Step("dense", "learned", layer), Step("softmax", "learned")), classes, features)
    native.check(dataclasses.replace(folded, head=head, notes=(*folded.notes, *_SPACE)))


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext(lambda done: None)


def _check(found: dataset.Dataset, folds: int) -> int:
    """How many folds there can be. ValueError if there are too few pictures to judge by."""
    counts = found.members.sum(axis=0)
    few = [f"{name} ({count})" for name, count in zip(found.classes, counts, strict=True) if count < 2]
    if few:
        raise ValueError(f"expected at least two readable pictures of each class, got {', '.join(few[:5])}")
    return int(min(folds, counts.min(), len(found.paths)))


def _head(layer: regression.Linear, found: dataset.Dataset) -> Head:
    steps = Step("dense", "learned", {"kernel": layer.kernel, "bias": layer.bias})
    activation = "softmax" if found.exclusive else "sigmoid"
    return Head((steps, Step(activation, "learned")), found.classes, len(layer.kernel))


def _notes(
    found: dataset.Dataset, hashes: list[bytes], folds: int, choice: regression.Choice, augmented: bool
) -> tuple[str, ...]:
    kind = "logistic regression" if found.exclusive else "logistic regression for each class"
    notes = [
        f"a head for {len(found.classes)} classes, from {len(found.paths)} pictures by {kind}, C {choice.strength:g}"
        f"{', with mirror images and crops' if augmented else ''}, {folds} folds"
    ]
    labels: dict[bytes, NDArray[np.bool_]] = {}
    twice = sum(
        not np.array_equal(labels.setdefault(key, row), row) for key, row in zip(hashes, found.members, strict=True)
    )
    if twice:
        notes.append(f"{twice} pictures are the same file as another one with another label")
    if choice.strength in (regression.STRENGTHS[0], regression.STRENGTHS[-1]):
        notes.append("the best strength is the last that was tried: it might be better still beyond")
    return tuple(notes)
