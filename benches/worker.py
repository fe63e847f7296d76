"""One engine in its own process: reads questions, a JSON object a line, and times itself."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers import PEERS, Run


def timed(run: Run, images: np.ndarray, seconds: float, warm_up: int) -> list[float]:
    for _ in range(warm_up):
        run(images)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        run(images)
        times.append(time.perf_counter() - begin)
    return times


def main() -> None:
    name, threads, models, cpus = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    os.sched_setaffinity(0, map(int, cpus.split(",")))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print what they like
    low, high = PEERS[name].input_range
    pool = np.load(models / "images.npy") * np.float32(high - low) + np.float32(low)
    runs: dict[int, Run] = {}
    for line in sys.stdin:
        question = json.loads(line)
        batch = question["batch"]
        images = np.ascontiguousarray(np.resize(pool, (batch, 96, 96, 3)))
        answer: dict[str, Any] = {}
        try:
            if batch not in runs:
                runs[batch] = PEERS[name].make(models, threads, batch)
            if "features" in question:
                np.save(question["features"], runs[batch](images))
            else:
                answer["times"] = timed(runs[batch], images, question["seconds"], question["warm_up"])
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), file=answers, flush=True)


main()
