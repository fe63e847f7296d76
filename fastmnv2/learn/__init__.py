"""Train classifiers for your own pictures: a linear head on the features, cross-validated, as in TF-Hub's retrain.py.

>>> model = fastmnv2.learn.train("photos/", report="report.html")  # doctest: +SKIP
>>> model.classes, model.predict(images)  # doctest: +SKIP

Needs ``pip install 'fastmnv2[learn]'``.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastmnv2.core.model import Model
from fastmnv2.learn.study import KEEP, Outcome, Precision, study

if TYPE_CHECKING:
    from fastmnv2.image.decode import Options
    from fastmnv2.image.embed import OnError
    from fastmnv2.image.resizing import Method
    from fastmnv2.learn.dataset import Skip

__all__ = ["Outcome", "save", "study", "train", "write_report"]


def save(path: str | os.PathLike[str], trained: Outcome | Model) -> None:
    """Write a trained model to a native file, for ``fastmnv2.load`` and ``fastmnv2 classify --weights``.

    Args:
        path: the ``.safetensors`` file, which is written atomically.
        trained: the result of ``study`` or ``train``, or any other model.

    Raises:
        OSError: if the file can't be written.
        WeightsError: if the names of classes are too long for the file.
    """
    from fastmnv2.weights.forms import native

    native.write(path, trained.folded)


def write_report(path: str | os.PathLike[str], outcome: Outcome) -> None:
    """Write a report on an outcome as one HTML page, without scripts and without references to other files.

    Raises:
        OSError: if the file can't be written.
    """
    from fastmnv2.learn import report

    report.write(Path(path), outcome)


def train(
    data: Any,
    *,
    report: str | os.PathLike[str] | None = None,
    weights: Any = None,
    precision: Precision | None = None,
    augment: bool | Literal["auto"] = False,
    class_weight: Literal["balanced"] | None = "balanced",
    folds: int = 5,
    method: "Method" = "tf2",
    options: "Options | None" = None,
    follow_links: bool = False,
    seed: int = 0,
    threads: int | None = None,
    cache: str | os.PathLike[str] | None = KEEP,
    on_error: "OnError" = "skip",
    progress: bool = False,
    on_skip: "Skip | None" = None,
) -> Model:
    """Train a linear head on pictures and return a model with it: ``study(data, ...).model``.

    If ``report`` is given, the HTML report is written there. All other arguments are those of ``study``.

    Returns:
        A ``Model`` with ``predict`` and ``classes``; ``save`` writes it to a file.

    Raises:
        ValueError, TypeError, OSError, ImportError: as ``study``.
    """
    is_file = isinstance(data, (str, os.PathLike))
    if report is not None and is_file and os.path.realpath(report) == os.path.realpath(data):
        raise ValueError(f"report: expected another file than the table of labels, got {os.fspath(report)!r}")
    outcome = study(
        data, weights=weights, precision=precision, augment=augment, class_weight=class_weight, folds=folds,
        method=method, options=options, follow_links=follow_links, seed=seed, threads=threads, cache=cache,
        on_error=on_error, progress=progress, on_skip=on_skip,
    )  # fmt: skip
    if report is not None:
        write_report(report, outcome)
    return outcome.model
