"""``embed`` beside LiteRT and TensorFlow in one process: the everyday view.

    python -m pytest benches --benchmark-only
    python -m pytest benches --benchmark-only --benchmark-autosave   # and later --benchmark-compare

compare.py is what figures are quoted from: it keeps the engines out of each other's way.
"""

import measure
import numpy as np
import pytest
from conftest import ENGINES
from peers import PEERS

THREADS = 2  # TensorFlow's can be set once in a process


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n", [1, 8, 32, 128])
def bench_embed(benchmark, models, pool, engine, n):
    benchmark.group = f"embed, n={n}, {THREADS} threads"
    peer = PEERS[engine]
    low, high = peer.input_range
    images = np.resize(pool, (n, 96, 96, 3)) * np.float32(high - low) + np.float32(low)
    run = peer.make(models, THREADS, n)
    benchmark.extra_info |= {"n": n, "peak_gmacs": round(max(measure.peak(THREADS) for _ in range(5)) / 1e9, 1)}
    benchmark(run, images)


@pytest.mark.parametrize("n", [1, 32])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def bench_one_thread(benchmark, models, pool, dtype, n):
    benchmark.group = f"fastmnv2, n={n}, 1 thread"
    images = np.resize(pool, (n, 96, 96, 3))
    images = images if dtype == "float32" else (images * 255).astype(np.uint8)
    run = PEERS["fastmnv2"].make(models, 1, n)
    out = np.empty((n, 1280), np.float32)
    benchmark.extra_info |= {"n": n, "peak_gmacs": round(max(measure.peak(1) for _ in range(5)) / 1e9, 1)}
    benchmark(run, images, out=out)
