"""Write feature files with changing rows and paths to argv[1], forever."""

import itertools
import sys
from pathlib import Path

import numpy as np

from fastmnv2.image import outputs

for value in itertools.count():
    with outputs.open_output(Path(sys.argv[1]), 1280) as writer:
        for _ in range(1 + value % 3):
            writer.append([str(value % 5)] * 10, np.full((10, 1280), value % 5, np.float32))
    print(value, flush=True)
