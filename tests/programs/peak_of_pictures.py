"""Prints by how many bytes the process's memory grew at most while it embedded a picture several times."""

import resource
import sys

import numpy as np
import PIL.Image

import fastmnv2

weights, path, method = sys.argv[1:]
model = fastmnv2.load(weights)
PIL.Image.init()
model.embed_images([np.zeros((50, 50, 3), np.uint8)] * 4, threads=1)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


before = peak()
model.embed_images([path] * 3, threads=1, method=method)
print(peak() - before)
