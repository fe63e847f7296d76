"""The base of the package: the C core, networks and models. Nothing here reads weights files or pictures."""

import contextlib
import os

# The core loads OpenMP's runtime, which pins the loading thread if OMP_PROC_BIND or the like is set. The other threads
# and child processes would then share that one processor, so the affinity is restored below.
_before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None

from fastmnv2.core import _engine  # noqa: E402, F401

if _before is not None and os.sched_getaffinity(0) != _before:
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, _before)
