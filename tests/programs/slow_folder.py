"""The command line with small parts, written often."""

from fastmnv2.cli import main
from fastmnv2.image import parts

parts.PART_ROWS = 150
parts.SAVE_SECONDS = 0.02
print("started", flush=True)
main()
