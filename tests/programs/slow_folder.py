"""The command line with small parts, written often."""

from fastmnv2 import jobs
from fastmnv2.cli import main

jobs.PART_ROWS = 150
jobs.SAVE_SECONDS = 0.02
print("started", flush=True)
main()
