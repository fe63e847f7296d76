"""Print whether info() reports weights in the package, and the shape of embed's result, or "unavailable"."""

import numpy as np

import fastmnv2

print(fastmnv2.info()["weights_embedded"], end=" ")
try:
    print(fastmnv2.embed(np.zeros((2, 96, 96, 3), np.uint8)).shape)
except fastmnv2.WeightsUnavailable:
    print("unavailable")
