"""Many threads, many processes, other users of OpenMP, and Ctrl-C: right results, and nobody hangs."""

import concurrent.futures
import ctypes.util
import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time

import numpy as np
import pytest

import fastmnv2

UNIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def test_sixteen_threads_over_many_models(untrained_native, images):
    want = fastmnv2.load(untrained_native).embed(images)

    def work(seed):
        model = fastmnv2.load(untrained_native, threads=1 + seed % 3)
        return all((model.embed(images[i:]) == want[i:]).all() for i in range(seed % 3, 10, 3))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(32)))


def test_python_goes_on_while_a_batch_is_computed(model):
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
    assert turns > 20  # a held interpreter lock would let this thread run a handful of times


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


PREFORK = """
import os, sys, threading, numpy as np, fastmnv2
model = fastmnv2.load(sys.argv[1])
images = np.random.RandomState(0).rand(6, 96, 96, 3).astype(np.float32)
want = model.embed(images, threads=2)
stop = threading.Event()
def busy():
    while not stop.is_set():
        model.embed(images[:1], threads=2)
other = threading.Thread(target=busy)
other.start()
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        os._exit(0 if all((model.embed(images, threads=t) == want).all() for t in (1, 2, 2)) else 1)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
stop.set()
other.join()
print(codes)
"""


@UNIX
def test_workers_forked_from_a_threaded_program(untrained_native):
    command = [sys.executable, "-W", "ignore", "-c", PREFORK, str(untrained_native)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[0, 0, 0, 0]\n", done.stderr


FORKED = """
import ctypes, os, sys, threading, numpy as np, fastmnv2
from fastmnv2 import threads
model = fastmnv2.load(sys.argv[1])
images = np.random.RandomState(0).rand(6, 96, 96, 3).astype(np.float32)
want = model.embed(images, threads=1)
def same(count):
    return (model.embed(images, threads=count) == want).all()
def child(check):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if check() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def in_a_thread():
    said = []
    thread = threading.Thread(target=lambda: said.append(threads.resolve(2) == 2 and same(2)))
    thread.start()
    thread.join()
    return said == [True] and threads.resolve(2) == 1 and same(2)
first = child(lambda: threads.resolve(2) == 2 and same(2))  # nothing has run in parallel yet
libgomp = ctypes.CDLL("libgomp.so.1")  # another library's parallel region: free(NULL) on two threads
libgomp.GOMP_parallel(ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p), None, 2, 0)
print(first, child(lambda: same(2)), child(in_a_thread), child(lambda: child(lambda: same(2)) == 0))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp")
def test_forked_after_another_library_used_libgomp(untrained_native):
    if not fastmnv2.info()["openmp"] or not ctypes.util.find_library("gomp"):
        pytest.skip("no libgomp")
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(untrained_native)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # numpy's own threads would be others, too
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "0 0 0 0\n", done.stderr


def test_beside_numpys_own_threads(model, images):
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


INTERRUPTED = """
import sys, time, numpy as np, fastmnv2
model = fastmnv2.load(sys.argv[1], threads=int(sys.argv[2]))
images = np.zeros((20000, 96, 96, 3), np.uint8)
small = np.random.RandomState(0).rand(4, 96, 96, 3).astype(np.float32)
want = model.embed(small)
print("ready", flush=True)
try:
    model.embed(images)
    print("finished")
except KeyboardInterrupt:
    print(time.monotonic(), (model.embed(small) == want).all())
"""


@UNIX
@pytest.mark.parametrize("threads", [1, 2])
def test_interrupt_is_answered_in_a_long_batch(untrained_native, threads):
    command = [sys.executable, "-c", INTERRUPTED, str(untrained_native), str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.5)
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        answer = child.stdout.read().split()
    assert answer[1:] == ["True"]
    print(f"answered after {(float(answer[0]) - sent) * 1e3:.0f} ms")
    assert float(answer[0]) - sent < 3  # of the ten or more seconds that the batch takes


# Each brings an OpenMP runtime of its own, whose threads are at work while ours are.
BESIDE = {
    "torch": "import torch; x = torch.ones(1500, 1500); torch.set_num_threads(2); other = lambda: x @ x",
    "sklearn": (
        "from sklearn.ensemble import HistGradientBoostingRegressor as R; x = numpy.random.rand(3000, 5); "
        "other = lambda: R(max_iter=5).fit(x, x[:, 0])"
    ),
}
BESIDE_US = """
import sys, threading, numpy
if {first}:
    import fastmnv2; fastmnv2.load(sys.argv[1]).embed(numpy.zeros((3, 96, 96, 3), "u1"), threads=2)
{code}
import fastmnv2
model = fastmnv2.load(sys.argv[1])
images = numpy.random.RandomState(0).rand(7, 96, 96, 3).astype("f4")
want = model.embed(images, threads=1)
other()
stop = threading.Event()
def work():
    while not stop.is_set():
        other()
thread = threading.Thread(target=work)
thread.start()
print(all((model.embed(images[:n], threads=2) == want[:n]).all() for n in (1, 2, 3, 7) * 10))
stop.set()
thread.join()
"""


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("library", BESIDE)
def test_beside_another_openmp_runtime(untrained_native, library, first):
    if not importlib.util.find_spec(library):
        pytest.skip(f"{library} is not installed")
    code = BESIDE_US.format(first=first, code=BESIDE[library])
    command = [sys.executable, "-c", code, str(untrained_native)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True\n", done.stderr


WITHOUT_LOCK = """
import concurrent.futures, sys, threading, numpy as np, fastmnv2
images = np.random.RandomState(0).rand(4, 96, 96, 3).astype(np.float32)
shared = fastmnv2.load(sys.argv[1], threads=1)
want = shared.embed(images)
barrier = threading.Barrier(16)
def work(number):
    barrier.wait()
    for turn in range(20):
        model = shared if turn % 4 else fastmnv2.load(sys.argv[1], threads=1 + number % 2)
        n = 1 + (number + turn) % 4
        if not (model.embed(images[:n]) == want[:n]).all() or model.isa != shared.isa:
            return "wrong"
    return "right"
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    print({*pool.map(work, range(16))}, sys._is_gil_enabled())
"""


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has the interpreter lock")
def test_free_threaded_python_stays_free_and_right(untrained_native):
    command = [sys.executable, "-c", WITHOUT_LOCK, str(untrained_native)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "{'right'} False\n", done.stderr
