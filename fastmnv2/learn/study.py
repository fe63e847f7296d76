"""Train a model with a head on labelled pictures, and estimate its accuracy."""

import dataclasses
import itertools
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import ImageError
from fastmnv2.core.head import Head, Step
from fastmnv2.core.model import Model
from fastmnv2.core.progress import progress as progress_bar
from fastmnv2.image.decode import Options
from fastmnv2.image.embed import OnError
from fastmnv2.image.resizing import Method
from fastmnv2.learn import dataset, features, regression
from fastmnv2.learn.measures import Measures
from fastmnv2.weights.resolve import resolve
from fastmnv2.weights.tensors import Folded

KEEP = "default"
"""The value of ``cache`` that means the default file."""

Precision = Literal["float32", "int8"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A trained model, and the data, measures and settings of its training.

    Attributes:
        model: the model with the head; ``predict`` gives ``[n,classes]``.
        data: the training pictures.
        measures: measures of cross-validated predictions, for pictures that were held out of each head's training.
        strength: the chosen value of scikit-learn's C, on standardised features.
        losses: the cross-validated log-loss for each picture, by strength.
        augmented: whether the training used mirror images and crops too.
        notes: notes for the reader, one sentence each.
        options: how the pictures were decoded and resized.
    """

    model: Model
    data: dataset.Dataset
    measures: Measures
    strength: float
    losses: dict[float, float]
    augmented: bool
    notes: tuple[str, ...]
    folded: Folded
    options: Options = dataclasses.field(default_factory=Options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a native file, for ``fastmnv2.load`` and ``fastmnv2 classify --weights``."""
        from fastmnv2.weights.forms import native

        native.write(path, self.folded)


# Placeholders that are at least as long as the notes that training adds.
_LONGEST_NOTES = ("x" * 1000,) * 4


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
    on_error: OnError = "skip",
    progress: bool = False,
    on_skip: dataset.Skip | None = None,
) -> Outcome:
    """Train a linear head on labelled pictures by logistic regression; cross-validation chooses its regularisation.

    Args:
        data: a folder with a folder of pictures for each class; a CSV, TSV or Parquet table with the columns path
            (relative to the table) and label; a dict or pairs of path and label. A table of two columns needs no
            header. A label may be several names, as a list or separated by ";" or "|", or an empty list for none of
            the classes, and a path may occur in several rows. If a picture does not have exactly one class, this is a
            multi-label task: each class has its own sigmoid instead of a softmax over all. Pictures whose label is
            missing (null, NaN, or an empty text in a single-label task) are handled by ``on_error``.
        weights: the weights that compute the features, as for ``fastmnv2.load``. Their own head is not used.
        precision: the precision of the features and of the new model, as for ``fastmnv2.load``. The model's file
            records it, so that ``load`` uses the same.
        augment: train on mirror images and crops too: True, False, or "auto" to do so if that lowers the log-loss.
        class_weight: "balanced" gives all classes the same total weight; None gives all pictures the same weight.
        folds: parts for the cross-validation; fewer if a class has fewer pictures. Equal files are in the same part.
        method: how pictures are resized, as for ``fastmnv2.embed_images``. Predict with the same method.
        options: all settings for decoding and resizing in one value, instead of ``method``.
        follow_links: also search symbolic links to folders within the folders of classes.
        seed: the seed of the division into folds.
        threads: the maximum number of threads for features.
        cache: a file that caches features by the pictures' content; None for no cache.
        on_error: for pictures that can't be read or have no label: "skip" them, with a warning for each; "raise" an
            ``ImageError`` for the first; or a function, which is called with an ``ImageError`` for each, whose
            ``index`` counts the errors.
        progress: draw a bar on stderr.
        on_skip: the former name of ``on_error``, called with the path and the reason; deprecated.

    Returns:
        An ``Outcome``.

    Raises:
        FileNotFoundError, TypeError, ValueError: if ``data`` is not as above, if there are fewer than two classes or
            fewer than two readable pictures of a class, or if names of classes are too long for a native file.
        ImportError: if scikit-learn or Pillow is not installed.
        WeightsError: as ``fastmnv2.load``.
    """
    if not isinstance(folds, int) or folds < 2:
        raise ValueError(f"folds: expected an int of at least 2, got {folds!r}")
    if augment not in (True, False, "auto"):
        raise ValueError(f"augment: expected True, False or 'auto', got {augment!r}")
    if class_weight not in ("balanced", None):
        raise ValueError(f"class_weight: expected 'balanced' or None, got {class_weight!r}")
    if on_skip is not None:
        warnings.warn("on_skip is deprecated: use on_error", DeprecationWarning, stacklevel=2)
    skip = on_skip or _skip_with(on_error)
    labelled = dataset.read(data, skip, follow_links=follow_links)
    folded = dataclasses.replace(resolve(weights, head=False, precision=precision).without_logits(), file="")
    _check_names(folded, labelled.classes)
    options = options or Options(method)
    cache_path = features.default_path() if cache == KEEP else Path(cache) if cache is not None else None
    variants = features.VARIANTS if augment else features.VARIANTS[:1]
    with progress_bar("features", len(labelled.paths), unit="pictures") if progress else _nothing() as advance:
        x, hashes, rows = features.compute(
            Model(folded, threads=threads), folded.digest, labelled.paths, variants,
            options=options, place=cache_path, skip=skip, advance=advance,
        )  # fmt: skip
    found = labelled.only(rows)
    parts = regression.folds(found.members, hashes, _check(found, folds), seed)
    balanced = class_weight == "balanced"
    choice = regression.choose(x[:, :1], found.members, parts, balanced=balanced)
    augmented = False
    if augment:
        with_variants = regression.choose(x, found.members, parts, balanced=balanced)
        augmented = augment is True or min(with_variants.losses.values()) < min(choice.losses.values())
        choice = with_variants if augmented else choice
    layer = regression.fit(x if augmented else x[:, :1], found.members, choice.strength, balanced=balanced)
    head = _head(layer, found)
    notes = _notes(found, hashes, len(parts), choice, augmented)
    folded = dataclasses.replace(folded, head=head, notes=(*folded.notes, *notes))
    measures = Measures(choice.probabilities, found.members, found.exclusive)
    return Outcome(
        Model(folded, threads=threads),
        found,
        measures,
        choice.strength,
        choice.losses,
        augmented,
        notes,
        folded,
        options,
    )


def _skip_with(on_error: OnError) -> dataset.Skip:
    """A function that is called with the path and the reason for each picture that is skipped."""
    if on_error not in ("raise", "skip") and not callable(on_error):
        raise ValueError(f"on_error: expected 'raise', 'skip' or a function, got {on_error!r}")
    numbers = itertools.count()

    def skip(path: str, reason: object) -> None:
        error = ImageError(next(numbers), path, str(reason))
        if on_error == "raise":
            raise error
        if callable(on_error):
            on_error(error)
        else:
            warnings.warn(f"skipped {path}: {reason}", stacklevel=4)

    return skip


def _check_names(folded: Folded, classes: tuple[str, ...]) -> None:
    """Raise WeightsError, before the training, if the classes' names are too long for a native file."""
    from fastmnv2.weights.forms import native

    features, count = folded.network.features, len(classes)
    layer = {"kernel": np.zeros((features, count), np.float32), "bias": np.zeros(count, np.float32)}
    head = Head((Step("dense", "learned", layer), Step("softmax", "learned")), classes, features)
    native.check(dataclasses.replace(folded, head=head, notes=(*folded.notes, *_LONGEST_NOTES)))


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext(lambda done: None)


def _check(found: dataset.Dataset, folds: int) -> int:
    """The number of folds that the pictures allow. ValueError if there are too few pictures."""
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
        notes.append(f"{twice} pictures are copies of another picture that has a different label")
    if choice.strength in (regression.STRENGTHS[0], regression.STRENGTHS[-1]):
        notes.append("the best strength is the first or last one tried; a value outside this range might be better")
    return tuple(notes)
