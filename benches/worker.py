"""One engine in its own process: reads questions, one JSON object per line, and answers with the times of its calls."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers import PEERS, Run

from fastmnv2.core import _engine


def timed(run: Run, images: np.ndarray, seconds: float, warm_up: int, every: float = 0.0) -> list[float]:
    """Seconds of each call. A call begins every ``every`` seconds or, if that is 0, right after the previous call."""
    for _ in range(warm_up):
        run(images)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        run(images)
        times.append(time.perf_counter() - begin)
        if every > times[-1]:
            time.sleep(every - times[-1])
    return times


def main() -> None:
    name, threads, models, cpus = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    os.sched_setaffinity(0, map(int, cpus.split(",")))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines may print to standard output, which must carry only answers
    low, high = PEERS[name].input_range
    pool = np.load(models / "images.npy") * np.float32(high - low) + np.float32(low)
    runs: dict[int, Run] = {}
    for line in sys.stdin:
        question = json.loads(line)
        batch = question["batch"]
        images = np.ascontiguousarray(np.resize(pool, (batch, *pool.shape[1:])))
        answer: dict[str, Any] = {}
        try:
            if batch not in runs:
                runs[batch] = PEERS[name].make(models, threads, batch)
            if "features" in question:
                np.save(question["features"], runs[batch](images))
            else:
                late = _engine.late_teams()
                timing = {key: question[key] for key in ("seconds", "warm_up", "every") if key in question}
                answer["times"] = timed(runs[batch], images, **timing)
                answer["late"] = _engine.late_teams() - late
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), file=answers, flush=True)


main()
