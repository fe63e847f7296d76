"""The latency of calls with one image, as in a service, on an idle machine and next to busy processes.

    python benches/latency.py --json latency.json
    python benches/latency.py --peers fastmnv2,litert --busy 1 --seconds 10

Calls come back to back, or every 5 ms with the processors idle in between. Every engine runs in its own process, may
use all processors, and is stopped while another engine is measured. A busy process computes all the time and may also
run on any processor. All calls count, including the first ones next to a busy process.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from compare import OURS, installed, machine, make_models
from measure import Worker

EVERY = 0.005
QUANTILES = (0.5, 0.99, 0.999)


class Setting(NamedTuple):
    """The interval between calls, and the load on the machine."""

    every: float  # seconds from one call to the next; 0: back to back
    busy: int  # processes that compute all the time

    def __str__(self) -> str:
        pace = f"every {self.every * 1e3:.0f} ms" if self.every else "back to back"
        return pace + (f", {self.busy} busy" if self.busy else "")


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Run ``count`` processes that compute all the time."""
    neighbours = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.send_signal(signal.SIGKILL)
            neighbour.wait()


class Row(NamedTuple):
    """An engine and its number of threads."""

    peer: str
    threads: int  # 0: the engine's default

    def __str__(self) -> str:
        return f"{self.peer} | {self.threads or 'default'}"


class Measured(NamedTuple):
    """All calls of one row in one setting."""

    times: list[float]
    late: int  # fastmnv2's calls that continued without a late thread


def measure(
    workers: dict[Row, Worker], settings: Sequence[Setting], seconds: float, rounds: int
) -> dict[tuple[Row, Setting], Measured]:
    found = {(row, setting): Measured([], 0) for setting in settings for row in workers}
    for turn in range(rounds):
        for setting in settings:
            order = list(workers)
            random.Random(turn).shuffle(order)
            for row in order:
                with busy(setting.busy):
                    answer = workers[row].ask(batch=1, seconds=seconds, warm_up=3, every=setting.every)
                if "error" in answer:
                    raise RuntimeError(f"{row.peer}: {answer['error']}")
                times, late = found[row, setting]
                found[row, setting] = Measured(times + answer["times"], late + answer["late"])
    return found


def table(found: dict[tuple[Row, Setting], Measured], rows: Sequence[Row], settings: Sequence[Setting]) -> str:
    lines = ["| engine | threads | " + " | ".join(map(str, settings)) + " |", "|---" * (len(settings) + 2) + "|"]
    for row in rows:
        cells = []
        for setting in settings:
            quantiles = np.quantile(found[row, setting].times, QUANTILES) * 1e3
            cells.append(" / ".join(f"{value:.2f}" if value < 10 else f"{value:.0f}" for value in quantiles))
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="fastmnv2,litert,openvino,onnxruntime", help="engines, separated by commas")
    parser.add_argument("--threads", default="1,2,0", help="numbers of threads; 0: each engine's default")
    parser.add_argument("--busy", default="0,1,2", help="numbers of busy processes")
    parser.add_argument("--every", default=f"0,{EVERY}", help="seconds from call to call; 0: back to back")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds for each row in each setting and round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--weights", default="untrained")
    parser.add_argument("--models", type=Path, help="folder that keeps the engines' files for the next run")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    names = installed(options.peers.split(","))
    rows = [Row(name, int(count)) for name in names for count in options.threads.split(",")]
    settings = [
        Setting(float(every), int(count)) for every in options.every.split(",") for count in options.busy.split(",")
    ]
    with tempfile.TemporaryDirectory() as scratch:
        models = options.models or Path(scratch)
        if not (models / "images.npy").exists():
            models.mkdir(exist_ok=True)
            make_models(models, options.weights, names)
        everywhere = os.sched_getaffinity(0)
        workers = {row: Worker(row.peer, row.threads, models, everywhere) for row in rows}
        try:
            for worker in workers.values():
                worker.ask(batch=1, seconds=0.1, warm_up=3)
            found = measure(workers, settings, options.seconds, options.rounds)
        finally:
            for worker in workers.values():
                worker.close()
    about = machine(names)
    print(f"{about['processor']}, {about['cpus']} processors, {about['isa']}; ms: median / p99 / p99.9\n")
    print(table(found, rows, settings))
    print()
    for (row, setting), (times, late) in found.items():
        if row.peer.startswith(OURS) and row.threads != 1:
            print(f"{row.peer}, {row.threads or 'default'} threads, {setting}: a thread was late in", end=" ")
            print(f"{late} of {len(times)} calls")
    if options.json:
        results = [
            row._asdict() | setting._asdict() | {"times": times, "late": late}
            for (row, setting), (times, late) in found.items()
        ]
        options.json.write_text(json.dumps({"machine": about, "results": results}) + "\n")


if __name__ == "__main__":
    main()
