"""Load argv[1]. If it is refused, print the processor time in seconds, the peak memory in megabytes and the error."""

# Import first what the readers import, so that the memory of these modules is not counted.
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
