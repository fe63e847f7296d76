"""Timing engines against each other on a noisy machine.

Each engine runs in its own process, which is stopped (SIGSTOP) while another engine is timed, so that spinning threads
disturb no measurement. The engines take turns in short bursts of calls, over many rounds. The multiply-add peak is
measured before and after each burst; if it dropped, the burst is discarded and repeated.
"""

import functools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastmnv2
from fastmnv2.core import _engine, profile

GOOD = 0.9  # below this share of the best peak, the host must have taken the processor away
SECONDS = {1: 0.15, 8: 0.15, 32: 0.25, 128: 0.6}
WARM_UP = 3


@functools.cache
def int8_ratio() -> float:
    """How many 8-bit multiply-adds this processor does in the time of a float32 one. Both are measured in turn."""
    pairs = [(profile.peak(fastmnv2.isa("int8"), precision="int8"), profile.peak(fastmnv2.isa())) for _ in range(9)]
    return max(pair[0] for pair in pairs) / max(pair[1] for pair in pairs)


def peak(threads: int, macs: float = 1.7e8) -> float:
    """The maximum multiply-adds per second of ``threads`` cores at once, measured for about 3 ms."""
    done = [0.0] * threads
    start = threading.Barrier(threads + 1)
    isa = fastmnv2.isa()

    def work(rank: int) -> None:
        start.wait()
        _engine.peak_macs(isa, macs / 10)  # lets the processor raise its clock first
        begin = time.perf_counter()
        done[rank] = _engine.peak_macs(isa, macs) / (time.perf_counter() - begin)

    workers = [threading.Thread(target=work, args=(rank,)) for rank in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    for worker in workers:
        worker.join()
    return sum(done)


class Case(NamedTuple):
    """A case to time: an engine, its number of threads, and the images per call."""

    peer: str
    threads: int
    batch: int


class Worker:
    """An engine's process, which is stopped except while it answers. ``threads``: 0 for the engine's default."""

    def __init__(self, peer: str, threads: int, models: Path, cpus: set[int]) -> None:
        self.threads = threads
        pinned = ",".join(map(str, sorted(cpus)))
        command = [sys.executable, str(Path(__file__).with_name("worker.py")), peer, str(threads), str(models), pinned]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._stopped = False

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        if self._stopped:
            self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)
        self._stopped = True
        return json.loads(line) if line else {"error": "its process died"}

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def interleaved(
    workers: dict[tuple[str, int], Worker], batches: Iterable[int], rounds: int
) -> Iterator[dict[str, Any]]:
    """Yield bursts: case, seconds of each call, and mean peak. Bursts during which the peak dropped are left out."""
    cpus = sorted(os.sched_getaffinity(0))
    best = {threads: 0.0 for _, threads in workers}
    for threads in best:
        os.sched_setaffinity(0, cpus[-threads:])
        best[threads] = max(peak(threads) for _ in range(10))
    for turn in range(rounds):
        order = [(name, threads, batch) for name, threads in workers for batch in batches]
        random.Random(turn).shuffle(order)
        for name, threads, batch in order:
            os.sched_setaffinity(0, cpus[-threads:])
            for _ in range(6):
                before = peak(threads)
                answer = workers[name, threads].ask(batch=batch, seconds=SECONDS.get(batch, 0.3), warm_up=WARM_UP)
                after = peak(threads)
                best[threads] = max(best[threads], before, after)
                if "error" in answer:
                    raise RuntimeError(f"{name}: {answer['error']}")
                if min(before, after) > GOOD * best[threads]:
                    yield {"case": Case(name, threads, batch), "times": answer["times"], "peak": (before + after) / 2}
                    break
    os.sched_setaffinity(0, cpus)


class Result(NamedTuple):
    """The result of a case's bursts, in seconds per call; ``share`` is the share of the multiply-add limit."""

    median: float
    best: float  # the best burst's median
    p99: float
    calls: int
    share: float


def summary(bursts: list[dict[str, Any]], case: Case, macs: int) -> Result | None:
    """Medians of the bursts' medians, so that a slow moment affects one burst only. ``macs`` is for one image."""
    mine = [burst for burst in bursts if burst["case"] == case]
    if not mine:
        return None
    medians = [statistics.median(burst["times"]) for burst in mine]
    median = statistics.median(medians)
    limit = statistics.median(macs * case.batch / burst["peak"] for burst in mine)
    if case.peer.endswith("int8"):
        limit /= int8_ratio()
    times = np.concatenate([burst["times"] for burst in mine])
    return Result(median, min(medians), float(np.quantile(times, 0.99)), len(times), limit / median)
