"""Programs in ``tests/programs`` that tests run in a process of their own, with arguments on the command line."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "programs"


def command(name, *arguments):
    """To run ``tests/programs/<name>.py``."""
    return [sys.executable, str(FOLDER / f"{name}.py"), *map(str, arguments)]


def run(name, *arguments, check=True, timeout=120, **options):
    """Run it to its end; what it said is text."""
    options = {"capture_output": True, "text": True, "timeout": timeout} | options
    return subprocess.run(command(name, *arguments), check=check, **options)
