"""Results are right, and nothing hangs, with many threads or processes, other users of OpenMP, forks and Ctrl-C."""

import concurrent.futures
import ctypes.util
import importlib.util
import multiprocessing
import os
import signal
import sys
import sysconfig
import threading
import time

import numpy as np
import pytest
from processes import run_program, start

import fastmnv2

UNIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def test_sixteen_threads_over_many_models(untrained_native, images):
    want = fastmnv2.load(untrained_native).embed(images)

    def work(seed):
        model = fastmnv2.load(untrained_native, threads=1 + seed % 3)
        return all((model.embed(images[i:]) == want[i:]).all() for i in range(seed % 3, 10, 3))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(32)))


def test_python_threads_run_while_a_batch_is_computed(model):
    batch = np.zeros((400, 96, 96, 3), np.uint8)
    done = threading.Event()

    def work():
        model.embed(batch, threads=1)
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    turns = 0
    while not done.is_set():
        turns += 1
        time.sleep(0.001)
    worker.join()
    assert turns > 20  # if calls held the interpreter lock, this thread would run only a few times


def _child(path, images, threads, queue):
    queue.put(fastmnv2.load(path).embed(images, threads=threads).sum(dtype=np.float64))


@UNIX
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_multiprocessing(model, untrained_native, images, method):
    want = model.embed(images, threads=2).sum(dtype=np.float64)  # OpenMP's workers exist from here on
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=_child, args=(untrained_native, images, n, queue)) for n in (1, 2, None)]
    for child in children:
        child.start()
    try:
        assert [queue.get(timeout=60) for _ in children] == [want] * 3
    finally:
        for child in children:
            child.join(10)
            child.kill()


@UNIX
def test_workers_forked_from_a_threaded_program(untrained_native):
    done = run_program("forked_workers", untrained_native)
    assert done.stdout == "[0, 0, 0, 0]\n", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp")
@pytest.mark.parametrize("fork", ["Python", "C"])
def test_forked_after_another_library_used_libgomp(untrained_native, fork):
    if not fastmnv2.info()["openmp"] or not ctypes.util.find_library("gomp"):
        pytest.skip("no libgomp")
    # numpy's own threads would count too.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}
    done = run_program("forked_after_libgomp", untrained_native, fork, env=environment)
    assert done.stdout == "0 0 0 0\n", done.stderr


def test_next_to_numpys_own_threads(model, images):
    want = model.embed(images)
    stop = threading.Event()

    def multiply():
        matrix = np.ones((400, 400), np.float32)
        while not stop.is_set():
            matrix @ matrix

    others = [threading.Thread(target=multiply) for _ in range(2)]
    for other in others:
        other.start()
    try:
        for n in range(1, 30):
            assert (model.embed(images[: n % 10 + 1], threads=2) == want[: n % 10 + 1]).all()
    finally:
        stop.set()
        for other in others:
            other.join()


@UNIX
@pytest.mark.parametrize("threads", [1, 2, 1024])
def test_interrupt_is_answered_in_a_long_batch(untrained_native, threads):
    with start("long_batch", untrained_native, threads) as child:
        assert [child.stdout.readline() for _ in range(2)] == ["warming up\n", "ready\n"]
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        share, works = child.stdout.read().split()
    assert works == "True"
    assert float(share) < 0.3  # it is 1 if Ctrl-C has no effect; half a second on two cores is 0.05


@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.slow), "after"])
@pytest.mark.parametrize("library", ["torch", "sklearn"])
def test_next_to_another_openmp_runtime(untrained_native, library, when):
    if not importlib.util.find_spec(library):
        pytest.skip(f"{library} is not installed")
    done = run_program("beside_openmp", untrained_native, library, when)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has the interpreter lock")
def test_free_threaded_python_keeps_the_gil_off_and_is_right(untrained_native):
    done = run_program("without_lock", untrained_native)
    assert done.stdout == "{'right'} False\n", done.stderr
