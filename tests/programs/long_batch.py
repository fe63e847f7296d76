"""A batch that takes long, on argv[2] threads; prints when Ctrl-C ended it, and whether the model still works."""

import sys
import time

import numpy as np

import fastmnv2

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
