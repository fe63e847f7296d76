"""What everything else stands on: the C core, the network, models. Nothing here reads files or pictures."""

import contextlib
import os

# OpenMP's runtime comes with the core and pins the thread that loads it, where OMP_PROC_BIND or the like is set. Its
# other threads, and processes that it starts, would share that one processor.
_before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None

from fastmnv2.core import _engine  # noqa: E402, F401

if _before is not None and os.sched_getaffinity(0) != _before:
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, _before)
