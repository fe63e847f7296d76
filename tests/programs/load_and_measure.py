"""Load argv[1]; print seconds of processor time, megabytes of memory at its peak, and why it was refused."""

# What readers import takes memory that is not the file's: all of it comes before the first look.
import hashlib  # noqa: F401
import re
import resource
import subprocess  # noqa: F401
import sys
import tarfile  # noqa: F401
import tempfile  # noqa: F401
import time
import zipfile  # noqa: F401
from pathlib import Path

import flatbuffers  # noqa: F401

import fastmnv2
import fastmnv2.weights.forms.hub
import fastmnv2.weights.forms.keras


def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024


before = peak()
start = time.process_time()
try:
    fastmnv2.load(sys.argv[1])
except fastmnv2.WeightsError as error:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() - start + children.ru_utime + children.ru_stime
    print(seconds, max(peak() - before, children.ru_maxrss // 1024), error)
