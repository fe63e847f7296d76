"""Fork children before and after another library's parallel region, and print their exit codes.

argv[2] is "Python" to fork with os.fork and Python's hooks, or "C" to fork like a C library, without the hooks.
"""

import ctypes
import os
import sys
import threading
import warnings

import numpy as np

import fastmnv2
from fastmnv2.core import threads

threads.usable = lambda: 2
warnings.simplefilter("ignore")  # Python warns about forks in a program with threads
model = fastmnv2.load(sys.argv[1])
images = np.random.RandomState(0).rand(6, 96, 96, 3).astype(np.float32)
want = model.embed(images, threads=1)


fork = os.fork if sys.argv[2] == "Python" else ctypes.PyDLL(None).fork


def same(count):
    return (model.embed(images, threads=count) == want).all()


def child(check):
    pid = fork()
    if pid == 0:
        os._exit(0 if check() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_a_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(threads.available() == 2 and same(2)))
    thread.start()
    thread.join()
    return results == [True] and threads.available() == 1 and same(2)


first = child(lambda: threads.available() == 2 and same(2))  # nothing has run in parallel yet
libgomp = ctypes.CDLL("libgomp.so.1")  # another library's parallel region: free(NULL) on two threads
libgomp.GOMP_parallel(ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p), None, 2, 0)
print(first, child(lambda: same(2)), child(in_a_thread), child(lambda: child(lambda: same(2)) == 0))
