"""Accuracy against milliseconds: the 22 published members in both precisions, compared with LiteRT.

    taskset -c 1 python benches/networks.py --models FOLDER --json networks.json --plot networks.png

Calls with one image on one thread, all in one process. The engines take turns for each member, in short bursts. The
multiply-add peak is measured before and after each burst; if it dropped, the burst is discarded. In the first run,
TensorFlow writes LiteRT's files to FOLDER, each in a separate process, which takes a minute per member.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

import fastmnv2
from fastmnv2.cli import networks
from fastmnv2.core import profile
from fastmnv2.core.network import Network, of
from fastmnv2.weights.names import TOP1

GOOD = 0.9  # below this share of the best peak, the host must have taken the processor away
ROUNDS = 7
BURST = 0.04  # seconds


def write(multiplier: float, size: int, folder: Path) -> None:
    """Write the member's two TFLite files, with the same weights that fastmnv2 is timed with."""
    import export

    folded = networks.models(of(multiplier, size, size))["float32"]._folded
    export.tflite(folded, folder / f"{folded.network.name}.tflite")
    export.int8_tflite(folded, folder / f"{folded.network.name}_int8.tflite")


def engines(network: Network, folder: Path) -> dict[str, Callable[[], Any]]:
    """The timed functions, by name."""
    found: dict[str, Callable[[], Any]] = {}
    pixels = np.random.RandomState(0).randint(0, 256, (1, *network.image_shape)).astype(np.uint8)
    images = pixels.astype(np.float32) / 127.5 - 1
    ours = {"float32": networks.models(network)["float32"]}
    if (folder / f"{network.name}_int8.tflite").is_file():
        ours["int8"] = fastmnv2.load(folder / f"{network.name}_int8.tflite", precision="int8")
        for precision, suffix in (("float32", ""), ("int8", "_int8")):
            found[f"LiteRT {precision}"] = litert(folder / f"{network.name}{suffix}.tflite", images)
    else:
        ours["int8"] = networks.models(network)["int8"]
    for precision, model in ours.items():
        found[f"fastmnv2 {precision}"] = lambda model=model: model.embed(pixels, threads=1)
    return found


def litert(path: Path, images: np.ndarray) -> Callable[[], Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    source, target = (get()[0]["index"] for get in (interpreter.get_input_details, interpreter.get_output_details))

    def run() -> Any:
        interpreter.set_tensor(source, images)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return run


def burst(run: Callable[[], Any]) -> float:
    """Median seconds of a few calls."""
    run()
    times: list[float] = []
    end = time.perf_counter() + BURST
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(network: Network, folder: Path) -> dict[str, float]:
    """Milliseconds of each engine, and ``peak``: multiply-adds per second."""
    runs = engines(network, folder)
    isa = fastmnv2.isa()
    best = max(profile.peak(isa) for _ in range(10))
    medians: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            for _ in range(4):
                before, seconds, after = profile.peak(isa), burst(run), profile.peak(isa)
                best = max(best, before, after)
                if min(before, after) > GOOD * best:
                    medians[name].append(seconds)
                    break
    return {name: statistics.median(values) * 1e3 for name, values in medians.items() if values} | {"peak": best}


def draw(rows: list[dict[str, Any]], processor: str, path: Path) -> None:
    """Plot accuracy against milliseconds. A line joins the members that are more accurate than all faster ones."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 4.6))
    styles = {
        "fastmnv2 int8": ("#c03020", "o"),
        "fastmnv2 float32": ("#e08a60", "s"),
        "LiteRT int8": ("#506070", "o"),
        "LiteRT float32": ("#a8b4c0", "s"),
    }
    for name, (colour, marker) in styles.items():
        points = sorted((row[name], row["top1"]) for row in rows if name in row)
        axis.plot(*zip(*points, strict=True), marker, color=colour, markersize=3.5, alpha=0.6) if points else None
        axis.plot(*zip(*front(points), strict=True), color=colour, linewidth=1.3, label=name) if points else None
    axis.set_xscale("log")
    axis.set_xlabel("milliseconds, one image on one thread")
    axis.set_ylabel("ImageNet top-1 of the float32 network, %")
    axis.set_title(f"The 22 published MobileNet V2 networks on {processor}", fontsize=10)
    axis.grid(alpha=0.25, which="both")
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that are more accurate than all faster ones."""
    found: list[tuple[float, float]] = []
    for point in points:
        if not found or point[1] > found[-1][1]:
            found.append(point)
    return found


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "this processor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder for LiteRT's files")
    parser.add_argument("--no-litert", action="store_true", help="write no files; LiteRT is timed only if they exist")
    parser.add_argument("--only", nargs="*", default=[], help="names of the members to measure; default: all")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--plot", type=Path, help="file for the plot")
    parser.add_argument("--processor", default=processor(), help="the processor's name in the plot")
    options = parser.parse_args()
    options.models.mkdir(parents=True, exist_ok=True)
    rows = []
    for (multiplier, size), top1 in TOP1.items():
        network = of(multiplier, size, size)
        if options.only and network.name not in options.only:
            continue
        if not options.no_litert and not (options.models / f"{network.name}_int8.tflite").is_file():
            writer = multiprocessing.get_context("spawn").Process(target=write, args=(multiplier, size, options.models))
            writer.start()
            writer.join()
        row = {"network": network.name, "macs": network.macs, "top1": top1} | measure(network, options.models)
        rows.append(row)
        share = network.macs / row["peak"] * 1e3 / row["fastmnv2 float32"]
        times = "  ".join(f"{name} {row[name]:8.3f}" for name in row if name.startswith(("fastmnv2", "LiteRT")))
        print(f"{network.name:<21} {top1}%  {times}  of the limit {share:.0%}", flush=True)
    about = {"processor": options.processor, "isa": fastmnv2.isa(), "version": fastmnv2.info("untrained")["version"]}
    if options.json:
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    if options.plot:
        draw(rows, options.processor, options.plot)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
