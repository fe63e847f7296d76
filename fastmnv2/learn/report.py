"""The HTML report: one file without scripts, for any browser."""

import base64
import io
import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from fastmnv2._version import __version__
from fastmnv2.core.atomic import writing
from fastmnv2.core.errors import printable
from fastmnv2.learn.measures import Bin

if TYPE_CHECKING:
    from fastmnv2.image.decode import Options
    from fastmnv2.learn.study import Outcome

_MATRIX_LIMIT = 40  # the maximum number of classes in the full matrix
_THUMBNAIL = 128

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { padding: .2rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr + tr { border-top: 1px solid #8884; }
.wide { overflow-x: auto; } .matrix td { min-width: 2rem; text-align: center; } .note { color: #888; }
.matrix thead th { writing-mode: vertical-rl; text-align: left; }
figure { display: inline-block; width: 9rem; margin: .5rem; vertical-align: top; overflow-wrap: anywhere; }
figure img { max-width: 8rem; max-height: 8rem; } figcaption { font-size: .8rem; }
"""


def write(path: Path, outcome: "Outcome") -> None:
    """Write the report on ``outcome`` atomically."""
    text = page(outcome).encode("utf-8", "replace")
    with writing(path) as file:
        file.write(text)


def page(outcome: "Outcome") -> str:
    """The page as HTML."""
    low, high = outcome.measures.interval
    what = "pictures are put into the right class" if outcome.data.exclusive else "pictures get all labels right"
    parts = [
        f"<h1>{len(outcome.data.paths)} pictures, {len(outcome.data.classes)} classes</h1>",
        f'<p><strong id="accuracy">{outcome.measures.accuracy:.1%}</strong> of {what} by a head that was not trained '
        f"on them. Expect {low:.1%} to {high:.1%} on similar pictures.</p>",
        "".join(f'<p class="note">{_text(note)}</p>' for note in outcome.notes),
        "<h2>Classes</h2>",
        _classes(outcome),
    ]
    if outcome.data.exclusive:
        parts += ["<h2>Confusion matrix</h2>", _matrix(outcome)]
    parts += ["<h2>Probabilities</h2>", _reliability(outcome.measures.reliability())]
    parts += ["<h2>Strength of the regression</h2>", _strengths(outcome)]
    parts += ["<h2>Worst mistakes</h2>", _mistakes(outcome), f'<p class="note">fastmnv2 {__version__}</p>']
    title = f"{len(outcome.data.classes)} classes, accuracy {outcome.measures.accuracy:.1%}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _text(value: object) -> str:
    return escape(printable(str(value), 300))


def _table(head: list[str], rows: list[list[str]], kind: str = "") -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _classes(outcome: "Outcome") -> str:
    rows = [
        [f"<td>{_text(name)}</td><td>{m.pictures}</td><td>{_share(m.precision)}</td><td>{_share(m.recall)}</td>"]
        for name, m in zip(outcome.data.classes, outcome.measures.classes(), strict=True)
    ]
    return _table(["class", "pictures", "precision", "recall"], rows)


def _share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.1%}"


def _matrix(outcome: "Outcome") -> str:
    names, counts = outcome.data.classes, outcome.measures.confusion()
    if len(names) > _MATRIX_LIMIT:
        rows = [
            [f"<td>{_text(names[i])}</td><td>{_text(names[j])}</td><td>{count}</td>"]
            for i, j, count in outcome.measures.confused(50)
        ]
        return _table(["true", "predicted", "pictures"], rows)
    rows = []
    for i, name in enumerate(names):
        share = counts[i] / max(1, counts[i].sum())
        colour = "34,139,94" if counts[i].sum() else "0,0,0"
        cells = [
            f'<td style="background: rgba({colour if i == j else "200,60,40"},{share[j] * 0.8:.2f})">{count or ""}</td>'
            for j, count in enumerate(counts[i])
        ]
        rows.append([f"<td>{_text(name)}</td>", *cells])
    note = '<p class="note">Rows are the true classes, columns the predicted ones.</p>'
    return note + _table(["", *map(_text, names)], rows, "matrix")


def _reliability(bins: list[Bin]) -> str:
    def at(x: float, y: float) -> str:
        return f"{30 + 260 * x:.1f},{280 - 260 * y:.1f}"

    line = " ".join(at(b.probability, b.right) for b in bins)
    dots = "".join(
        f'<circle transform="translate({at(b.probability, b.right)})" r="4" fill="#22885e">'
        f"<title>{b.size} predictions of {b.probability:.1%}: {b.right:.1%} right</title></circle>"
        for b in bins
    )
    return (
        '<p class="note">How often predictions of each probability are right. On the dashed line, both are equal.</p>'
        '<svg id="reliability" width="320" height="320" viewBox="0 0 320 320" role="img" aria-label="reliability">'
        '<rect x="30" y="20" width="260" height="260" fill="none" stroke="#8888"/>'
        f'<path d="M{at(0, 0)} L{at(1, 1)}" stroke="#888" stroke-dasharray="4"/>'
        f'<polyline points="{line}" fill="none" stroke="#22885e" stroke-width="2"/>{dots}'
        '<g fill="currentColor" font-size="11"><text x="120" y="312">probability</text><text x="24" y="296">0</text>'
        '<text x="284" y="296">1</text><text x="20" y="24">1</text>'
        '<text transform="translate(16 180) rotate(-90)">share right</text></g></svg>'
    )


def _strengths(outcome: "Outcome") -> str:
    rows = [
        [f"<td>{strength:g}{' (chosen)' if strength == outcome.strength else ''}</td><td>{loss:.4f}</td>"]
        for strength, loss in outcome.losses.items()
    ]
    return _table(["C", "log-loss"], rows) + (
        '<p class="note">A smaller C regularises more. It was chosen on the same folds that measure the accuracy, '
        "which makes the accuracy slightly optimistic.</p>"
    )


def _mistakes(outcome: "Outcome") -> str:
    names, measures = outcome.data.classes, outcome.measures
    figures = []
    for row in measures.worst():
        path = outcome.data.paths[row]
        actual = ", ".join(_text(names[i]) for i in measures.members[row].nonzero()[0]) or "none"
        predicted = ", ".join(
            f"{_text(names[i])} {measures.probabilities[row, i]:.0%}" for i in measures.predicted[row].nonzero()[0]
        )
        image = _thumbnail(path, outcome.options)
        figures.append(
            f'<figure class="mistake"><img src="{image}" alt=""><figcaption>{_text(Path(path).name)}<br>'
            f"true: {actual}<br>predicted: {predicted or 'none'}</figcaption></figure>"
        )
    return "".join(figures) or "<p>None.</p>"


def _thumbnail(path: str, options: "Options") -> str:
    import PIL.Image

    from fastmnv2.image import decode

    try:
        picture = PIL.Image.fromarray(decode.read_with(path, options))
    except (OSError, ValueError):
        return "data:,"
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    data = io.BytesIO()
    picture.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
