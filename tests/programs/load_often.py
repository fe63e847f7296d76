"""Load a file repeatedly while the parent process changes it."""

import contextlib
import sys

import fastmnv2

print("go", flush=True)
for _ in range(150):
    with contextlib.suppress(fastmnv2.WeightsError):
        fastmnv2.load(sys.argv[1])
