"""Resize an array, and print why the picture argv[1] can't be read."""

import sys

import numpy as np

import fastmnv2

sys.modules["PIL"] = None
assert fastmnv2.image.resize(np.zeros((4, 4, 3), np.uint8)).shape == (96, 96, 3)
try:
    fastmnv2.image.read(sys.argv[1])
except ImportError as error:
    print(error)
