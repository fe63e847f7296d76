"""Classifiers of one's own pictures: a linear head on the features, cross-validated, as TF-Hub's ``retrain.py`` made.

>>> model = fastmnv2.learn.train("photos/", report="report.html")  # doctest: +SKIP
>>> model.classes, model.predict(images)  # doctest: +SKIP

Needs ``pip install 'fastmnv2[learn]'``.
"""

import os
from pathlib import Path
from typing import Any

from fastmnv2.core.model import Model
from fastmnv2.learn.study import Outcome, study

__all__ = ["Outcome", "study", "train", "write_report"]


def write_report(path: str | os.PathLike[str], outcome: Outcome) -> None:
    """Write an HTML page with everything in an outcome: no other file, no script, nothing fetched."""
    from fastmnv2.learn import report

    report.write(Path(path), outcome)


def train(data: Any, *, report: str | os.PathLike[str] | None = None, **settings: Any) -> Model:
    """Train a linear head on pictures and return a model with it: ``study(data, ...).model``.

    Args:
        data: as for ``study``, which tells the other settings too.
        report: write the HTML report there.
        **settings: as for ``study``.

    Returns:
        a ``Model`` with ``predict`` and ``classes``; ``fastmnv2.learn.save`` or ``fastmnv2 train`` keep it in a file.

    Raises:
        ValueError, OSError, ImportError: as ``study``.
    """
    outcome = study(data, **settings)
    if report is not None:
        write_report(report, outcome)
    return outcome.model
