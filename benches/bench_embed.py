"""Compare ``embed`` with LiteRT and TensorFlow in one process, for daily use.

    python -m pytest benches --benchmark-only
    python -m pytest benches --benchmark-only --benchmark-autosave   # and later --benchmark-compare

``FASTMNV2_BENCH_WEIGHTS`` names the weights, of any network (default "untrained").
Quote figures from compare.py only: it keeps the engines from disturbing each other.
"""

import concurrent.futures
import statistics
import time

import measure
import numpy as np
import pytest
from conftest import ENGINES
from peers import PEERS

THREADS = 2  # TensorFlow's number of threads can be set only once per process


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n", [1, 8, 32, 128])
def bench_embed(benchmark, models, pool, network, engine, n):
    benchmark.group = f"embed, n={n}, {THREADS} threads"
    peer = PEERS[engine]
    low, high = peer.input_range
    images = np.resize(pool, (n, *pool.shape[1:])) * np.float32(high - low) + np.float32(low)
    run = peer.make(models, THREADS, n)
    benchmark.extra_info |= {
        "n": n,
        "macs": network.macs,
        "peak_gmacs": round(max(measure.peak(THREADS) for _ in range(5)) / 1e9, 1),
    }
    benchmark(run, images)


@pytest.mark.parametrize("n", [1, 32])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def bench_one_thread(benchmark, models, pool, network, dtype, n):
    benchmark.group = f"fastmnv2, n={n}, 1 thread"
    images = np.resize(pool, (n, *pool.shape[1:]))
    images = images if dtype == "float32" else (images * 255).astype(np.uint8)
    run = PEERS["fastmnv2"].make(models, 1, n)
    out = np.empty((n, network.features), np.float32)
    benchmark.extra_info |= {
        "n": n,
        "macs": network.macs,
        "peak_gmacs": round(max(measure.peak(1) for _ in range(5)) / 1e9, 1),
    }
    benchmark(run, images, out=out)


def seconds_of(callers, work):
    """Seconds until ``callers`` Python threads have all finished ``work``."""
    with concurrent.futures.ThreadPoolExecutor(callers) as pool:
        start = time.perf_counter()
        list(pool.map(lambda _: work(), range(callers)))
        return time.perf_counter() - start


@pytest.mark.parametrize("n", [1, 32])
def bench_two_callers(benchmark, models, pool, n):
    """Two Python threads that call ``embed`` on one thread each do nearly twice the work, because the GIL is released.

    extra_info has the speedup over one caller, and the speedup of the multiply-add peak, which limits it.
    """
    benchmark.group = f"two callers, n={n}, 1 thread each"
    run, images = PEERS["fastmnv2"].make(models, 1, n), np.resize(pool, (n, *pool.shape[1:]))

    def work():
        for _ in range(320 // n):
            run(images)

    speedups, peaks = [], []
    for _ in range(15):
        peaks.append(measure.peak(2) / measure.peak(1))
        speedups.append(2 * seconds_of(1, work) / seconds_of(2, work))
    benchmark.extra_info |= {"speedup": statistics.median(speedups), "peak_speedup": statistics.median(peaks)}
    print(f"\ntwo callers, n={n}: {statistics.median(speedups):.2f}x, the peak {statistics.median(peaks):.2f}x")
    benchmark(seconds_of, 2, work)
