"""Fork four children while another thread computes; print their exit codes."""

import os
import sys
import threading
import warnings

import numpy as np

import fastmnv2

warnings.simplefilter("ignore")  # Python warns about forks in a program with threads
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
