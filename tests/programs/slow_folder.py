"""The command line with small parts, written often."""

from fastmnv2.cli import main
from fastmnv2.image import jobs

jobs.PART_ROWS = 150
jobs.SAVE_SECONDS = 0.02
print("started", flush=True)
main()
