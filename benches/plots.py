"""The plots in README.md and docs/precision.md: throughput of all engines, and a roofline of the layers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from measure import Case, Result

OURS, OTHERS = "#c03020", "#8090a0"


def draw(results: dict[Case, Result], about: dict[str, Any], weights: str, folder: Path) -> None:
    """Write comparison.png and roofline.png to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    _comparison(results, about).savefig(folder / "comparison.png", dpi=110)
    _roofline(about, weights).savefig(folder / "roofline.png", dpi=110)


def _comparison(results: dict[Case, Result], about: dict[str, Any]) -> Any:
    threads = sorted({case.threads for case in results})
    batches = sorted({case.batch for case in results})
    figure, axes = plt.subplots(
        len(threads), len(batches), figsize=(3.2 * len(batches), 2.6 * len(threads)), squeeze=False
    )
    for row, count in zip(axes, threads, strict=True):
        for axis, batch in zip(row, batches, strict=True):
            cases = [case for case in results if (case.threads, case.batch) == (count, batch)]
            cases.sort(key=lambda case: -results[case].median)
            values = [batch / results[case].median for case in cases]
            axis.barh([case.peer for case in cases], values, color=[_colour(case) for case in cases])
            peak = about.get(f"peak_{count}")
            if peak:
                axis.axvline(peak / about["macs"], color="black", linewidth=0.8, linestyle=":")
            axis.set_title(f"n={batch}, {count} thread{'s' * (count > 1)}", fontsize=9)
            axis.tick_params(labelsize=7)
    figure.supxlabel("images per second; dotted: the multiply-add limit", fontsize=8)
    figure.suptitle(f"{about['network']}, float32 on {about['processor']}, {about['isa']}", fontsize=10)
    figure.tight_layout()
    return figure


def _colour(case: Case) -> str:
    return OURS if case.peer == "fastmnv2" else OTHERS


def _roofline(about: dict[str, Any], weights: str) -> Any:
    import fastmnv2
    from fastmnv2.core import profile

    rows = profile.layers(fastmnv2.load(weights), n=1)
    figure, axis = plt.subplots(figsize=(7, 4.2))
    peak = rows[0].peak / 1e9
    for kind, marker in (("conv", "s"), ("depthwise", "o"), ("pointwise", "^")):
        mine: Iterable[Any] = [row for row in rows if row.kind == kind]
        axis.plot(
            [row.macs / row.bytes for row in mine],
            [row.macs / row.seconds / 1e9 for row in mine],
            marker,
            label=kind,
            alpha=0.7,
        )
    axis.axhline(peak, color="black", linewidth=0.8, linestyle=":", label=f"peak, {peak:.1f} GMAC/s")
    axis.set_xscale("log")
    axis.set_ylim(0, peak * 1.08)
    axis.set_xlabel("multiply-adds per byte of weights and maps")
    axis.set_ylabel("GMAC/s")
    axis.set_title(f"Each layer, one image, one thread: {about['processor']}, {about['isa']}", fontsize=10)
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure
