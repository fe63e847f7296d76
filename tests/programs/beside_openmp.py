"""Embed while library argv[2] computes too. Its OpenMP runtime is loaded "before" or "after" ours (argv[3])."""

import sys
import threading

import numpy as np

path, library, when = sys.argv[1:]
if when == "after":
    import fastmnv2

    fastmnv2.load(path).embed(np.zeros((3, 96, 96, 3), np.uint8), threads=2)

if library == "torch":
    import torch

    matrix = torch.ones(1500, 1500)
    torch.set_num_threads(2)

    def other():
        matrix @ matrix
else:
    from sklearn.ensemble import HistGradientBoostingRegressor

    x = np.random.rand(3000, 5)

    def other():
        HistGradientBoostingRegressor(max_iter=5).fit(x, x[:, 0])


import fastmnv2  # noqa: E402

model = fastmnv2.load(path)
images = np.random.RandomState(0).rand(7, 96, 96, 3).astype(np.float32)
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
