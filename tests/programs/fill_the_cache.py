"""Load the default weights, which downloads and caches them, and print a sum of features."""

from pathlib import Path

import numpy as np

import fastmnv2
from fastmnv2.weights import cache

cache.EMBEDDED = Path("no weights")
print(fastmnv2.load().embed(np.zeros((1, 96, 96, 3), np.uint8)).sum())
