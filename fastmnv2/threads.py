"""How many threads a call may use: what the system, OpenMP's settings and the caller allow."""

import functools
import operator
import os
import threading
from pathlib import Path
from typing import Any

from fastmnv2 import _engine

# libgomp keeps the workers of a thread's parallel region for its next one. A fork leaves them behind, and the thread
# that comes out of it would wait for them for ever (GCC PR 60035), whichever library had asked for them. So that
# thread computes alone, unless the process had no other thread; those that it starts have workers of their own.
_fork = {"others": False, "alone": 0}


def _before_fork() -> None:
    try:
        _fork["others"] = len(os.listdir("/proc/self/task")) > 1
    except OSError:  # no /proc: assume so
        _fork["others"] = True


def _after_fork_in_child() -> None:
    if _fork["others"]:
        _fork["alone"] = threading.get_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


@functools.cache
def cgroup_cpus(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> int | None:
    """CPUs that the control group's quota pays for, rounded up; None where there is no quota.

    Version 2 looks at ``cpu.max`` of the process's own group and its parents, version 1 at
    ``cpu/cpu.cfs_quota_us``. The smallest quota on the way up holds.
    """
    groups = {"", "/"}
    try:
        for line in Path(membership).read_text().splitlines():
            group = line.split(":", 2)[2].strip("/")
            parts = group.split("/")
            groups |= {"/".join(parts[:i]) for i in range(1, len(parts) + 1)}
    except (OSError, IndexError):
        pass
    quotas = []
    for group in groups:
        for folder in (Path(root, group), Path(root, "cpu", group)):
            quotas.append(_quota(folder))
    found = [quota for quota in quotas if quota is not None]
    return min(found, default=None)


def _quota(folder: Path) -> int | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        if quota.strip() == "max" or int(quota) <= 0 or int(period) <= 0:
            return None
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return None


def available() -> int:
    """Threads that ``threads=None`` stands for now.

    The least of: CPUs in the process's affinity mask, CPUs of its control group's quota, and OpenMP's limit
    (``OMP_NUM_THREADS`` when the process started, ``threadpoolctl`` since).
    """
    cpus = _engine.affinity_cpus() or os.cpu_count() or 1
    quota = cgroup_cpus()
    return max(1, min(cpus, quota if quota is not None else cpus, _engine.max_threads()))


def resolve(threads: Any) -> int:
    """The number to run with: ``threads`` if given (TypeError, ValueError if not a positive int)."""
    if threads is None:
        count = available()
    elif type(threads) is int and threads >= 1:
        count = threads
    else:
        try:
            count = operator.index(threads)
        except TypeError:
            raise TypeError(f"threads: expected a positive int or None, got {threads!r}") from None
        if count < 1:
            raise ValueError(f"threads: expected a positive int or None, got {threads!r}")
    if not _engine.openmp or (_fork["alone"] and _fork["alone"] == threading.get_ident()):
        return 1
    return min(count, 1024)
