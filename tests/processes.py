"""Run the programs in ``tests/programs`` in separate processes, with arguments on the command line."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "programs"


def program(name, *arguments):
    """The command that runs ``tests/programs/<name>.py``."""
    return [sys.executable, str(FOLDER / f"{name}.py"), *map(str, arguments)]


def run_program(name, *arguments, check=True, **options):
    """Run a program to its end. Returns subprocess.run's result, with text output."""
    command = program(name, *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=check, **options)


def start(name, *arguments):
    """Start a program. Returns a Popen, whose output can be read as text while it runs."""
    return subprocess.Popen(program(name, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
