"""Read argv[1] as a user without permission; print the error."""

import os
import sys

import fastmnv2
import fastmnv2.weights

if os.getuid() == 0:
    os.setuid(65534)
try:
    fastmnv2.weights.read(sys.argv[1])
except fastmnv2.WeightsError as error:
    print(error)
