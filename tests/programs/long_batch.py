"""Embed a batch that takes long, on argv[2] threads, until Ctrl-C.

Prints the share of the batch that was computed, and whether the model still works. The share is measured in processor
time, so that other programs don't change it.
"""

import contextlib
import signal
import sys
import time

import numpy as np

import fastmnv2

# A shell that runs tests in the background may ignore Ctrl-C, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
model = fastmnv2.load(sys.argv[1], threads=int(sys.argv[2]))
few, images = np.zeros((100, 96, 96, 3), np.uint8), np.zeros((20000, 96, 96, 3), np.uint8)
small = np.random.RandomState(0).rand(4, 96, 96, 3).astype(np.float32)
want = model.embed(small)


def seconds(batch, message="warming up"):
    start = time.process_time()
    with contextlib.suppress(KeyboardInterrupt):
        print(message, flush=True)
        model.embed(batch)
    return time.process_time() - start


whole = seconds(few) * len(images) / len(few)
print(seconds(images, "ready") / whole, (model.embed(small) == want).all())
