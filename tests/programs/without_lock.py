"""Sixteen threads that share and load models, on a Python without the GIL."""

import concurrent.futures
import sys
import threading

import numpy as np

import fastmnv2

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
