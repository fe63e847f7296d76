"""Load argv[1]; print seconds of processor time, megabytes of memory at its peak, and why it was refused."""

import re
import resource
import sys
import time

import fastmnv2.weights.forms.hub
import fastmnv2.weights.forms.keras


def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) // 1024


before = peak()
start = time.process_time()
try:
    fastmnv2.load(sys.argv[1])
except fastmnv2.WeightsError as error:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() - start + children.ru_utime + children.ru_stime
    print(seconds, max(peak() - before, children.ru_maxrss // 1024), error)
