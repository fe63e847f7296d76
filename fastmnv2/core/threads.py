"""The number of threads that a call may use, which the system, OpenMP's settings and the caller limit."""

import functools
import operator
import os
from pathlib import Path
from typing import Any

from fastmnv2.core import _engine


@functools.cache
def cgroup_cpus(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> int | None:
    """CPUs that the control group's quota allows, rounded up; None without a quota.

    Version 2 has ``cpu.max`` in the process's own group and its parents, version 1 has ``cpu/cpu.cfs_quota_us``. The
    smallest quota among them counts.
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


def usable() -> int:
    """Processors that the process may use, by its affinity mask and its control group's quota."""
    cpus = _engine.affinity_cpus() or os.cpu_count() or 1
    quota = cgroup_cpus()
    return cpus if quota is None else min(cpus, quota)


def available() -> int:
    """The current number of threads for ``threads=None``.

    The minimum of ``usable()`` and OpenMP's limit, which ``OMP_NUM_THREADS`` sets when the process starts and
    ``threadpoolctl`` can change later. It is 1 after a fork that lost OpenMP's threads.
    """
    return min(usable(), _engine.max_threads())


def resolve(threads: Any) -> int:
    """The number of threads to run for the argument ``threads``: at most ``usable()``, and ``available()`` for None.

    More would be slow: the threads of a call wait for each other about thirty times, and if two share a processor, each
    wait lasts as long as the system lets the other thread run.

    Raises:
        TypeError, ValueError: if ``threads`` is not None or a positive int.
    """
    if threads is None:
        return available() if _engine.openmp else 1
    if type(threads) is int and threads >= 1:
        count = threads
    else:
        try:
            count = operator.index(threads)
        except TypeError:
            raise TypeError(f"threads: expected a positive int or None, got {threads!r}") from None
        if count < 1:
            raise ValueError(f"threads: expected a positive int or None, got {threads!r}")
    if count == 1 or not _engine.openmp:
        return 1
    return min(count, usable())
