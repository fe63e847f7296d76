"""Save the features of the images in argv[2] to argv[3], and print the number of threads."""

import sys

import numpy as np

import fastmnv2

model = fastmnv2.load(sys.argv[1])
features = [model.embed(np.load(sys.argv[2]), threads=threads) for threads in (None, 1, 4)]
assert all((part == features[0]).all() for part in features)
print(fastmnv2.info()["threads"])
np.save(sys.argv[3], features[0])
