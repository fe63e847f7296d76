"""Embed when threads can't be started, because of the limit argv[2]. Print the number of threads after each call."""

import os
import resource
import sys
import threading

import numpy as np

import fastmnv2
from fastmnv2.core import threads

path, limit = sys.argv[1:]
threads.usable = lambda: 64
model = fastmnv2.load(path)
images = np.random.RandomState(0).rand(9, 96, 96, 3).astype(np.float32)
want = model.embed(images, threads=1)


def embed(count):
    try:
        assert (model.embed(images, threads=count) == want).all()
    except MemoryError:
        return "MemoryError"
    return len(os.listdir("/proc/self/task"))


def lower(which, most):
    resource.setrlimit(which, (most, most))


def mapped():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def in_new_threads():
    """Run in new threads, one after the other. Each has its own workers, which end with it."""
    for _ in range(50):
        thread = threading.Thread(target=embed, args=[4])
        try:
            thread.start()
        except RuntimeError:  # even Python can't start one
            return
        thread.join()


seen = []
if limit.startswith("processes"):  # "processes 3": at most 3 threads of this user
    if os.getuid() == 0:
        os.setuid(54321)  # the limit does not apply to the superuser
    if "later" in limit:
        seen.append(embed(2))
    lower(resource.RLIMIT_NPROC, int(limit.split()[1]))
elif limit.startswith("group"):  # "group FOLDER": the limit of a control group
    with open(f"{limit.split()[1]}/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
elif limit.startswith("memory"):  # "memory 20": at most 20 MB more than now
    lower(resource.RLIMIT_AS, mapped() + (int(limit.split()[1]) << 20))
seen += [embed(count) for count in (2, 4, 2, 8, 3, 64)]
in_new_threads()
print(*seen)
