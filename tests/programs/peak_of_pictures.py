"""Print the peak growth of the process's memory, in bytes, while it embeds a picture several times."""

import sys
from pathlib import Path

import numpy as np
import PIL.Image

import fastmnv2

weights, path, method = sys.argv[1:]
model = fastmnv2.load(weights)
PIL.Image.init()
model.embed_images([np.zeros((50, 50, 3), np.uint8)] * 4, threads=1)


def status(what):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, which may be the parent's
before = status("VmRSS")
model.embed_images([path] * 3, threads=1, method=method)
print(status("VmHWM") - before)
