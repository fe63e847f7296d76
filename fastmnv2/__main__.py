"""``python -m fastmnv2``."""

from fastmnv2.cli import main

main()
