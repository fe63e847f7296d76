"""Make every kind of call while the n-th allocation fails, for every n. argv[2] is "core" or "Python"."""

import ctypes
import sys

import numpy as np

import fastmnv2
from fastmnv2.core import threads

threads.usable = lambda: 64  # regardless of this machine
path, allocator = sys.argv[1:]
images = np.random.RandomState(0).rand(5, 96, 96, 3).astype(np.float32)
shared = fastmnv2.load(path)
want = shared.embed(images)
calls = {
    "load": lambda: fastmnv2.load(path),
    "embed": lambda: fastmnv2.load(path).embed(images, threads=3),  # a new model has no arenas yet
    "shared": lambda: shared.embed(images),
    "endpoints": lambda: shared.endpoints(images[0], "MobilenetV2/layer_19"),
}


def check(what, refuse, allow):
    call, failed, n = calls[what], 0, 0
    while True:
        refuse(n)
        try:
            call()
        except MemoryError:
            failed += 1
        else:
            allow()
            break
        finally:
            allow()
        n += 1
    assert (shared.embed(images) == want).all()
    print(what, failed)


if allocator == "core":
    library = ctypes.CDLL(None)  # tests/c/failing_allocations.c, preloaded

    def fail_after(n=-1):
        library.fail_after(ctypes.c_long(n))

    for what in calls:
        check(what, fail_after, fail_after)
else:
    import _testcapi

    # Not endpoints: they create a generator, and CPython 3.12 and 3.13 crash if there is no memory for one.
    check("shared", lambda n: _testcapi.set_nomemory(n, n + 1), _testcapi.remove_mem_hooks)
