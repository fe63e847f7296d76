"""Save the features of the images in argv[3] to argv[2], and print the instruction set that was used."""

import sys

import numpy as np

import fastmnv2

model = fastmnv2.load(sys.argv[1])
print(model.isa)
np.save(sys.argv[2], model.embed(np.load(sys.argv[3]), threads=1))
