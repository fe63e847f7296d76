"""Thread counts, forks, and other threads in the same process."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastmnv2
from fastmnv2.core import threads


@pytest.mark.parametrize("wrong", [0, -1])
def test_threads_must_be_positive(model, images, wrong):
    with pytest.raises(ValueError, match="threads: expected a positive int"):
        model.embed(images, threads=wrong)


@pytest.mark.parametrize("wrong", [1.5, "2", [1]])
def test_threads_must_be_an_int(model, images, untrained_native, wrong):
    with pytest.raises(TypeError, match="threads: expected a positive int"):
        model.embed(images, threads=wrong)
    with pytest.raises(TypeError, match="threads: expected a positive int"):
        fastmnv2.load(untrained_native, threads=wrong)


def _available(code="", **environ):
    script = f"{code}\nfrom fastmnv2.core import threads\nprint(threads.available())"
    clean = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=clean | environ, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_environment_and_affinity_limit_the_default():
    assert _available(OMP_NUM_THREADS="1") == 1
    everything = _available()
    assert 1 <= everything <= (os.cpu_count() or 1)
    if hasattr(os, "sched_setaffinity"):
        one = min(os.sched_getaffinity(0))
        assert _available(f"import os; os.sched_setaffinity(0, [{one}])") == 1


def test_no_more_threads_than_processors(real_processors):
    """More threads than CPUs wait for each other: 1024 threads took 200 times as long, and 3.4 s to see Ctrl-C."""
    most = real_processors if fastmnv2.info()["openmp"] else 1
    assert threads.resolve(1024) == threads.resolve(real_processors) == most
    assert threads.resolve(1) == 1


def test_threadpoolctl_limits_the_default():
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        assert threads.available() == 1


@pytest.mark.parametrize(
    ("files", "want"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"a/cpu.max": "max 100000", "a/b/cpu.max": "200000 100000", "cpu.max": "400000 100000"}, 2),
        ({}, None),
    ],
)
def test_control_group_quota(tmp_path, files, want):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    assert threads.cgroup_cpus(str(tmp_path), str(membership)) == want


def test_one_model_from_many_threads(model, images):
    want = model.embed(images)
    wrong = []

    def work(seed):
        rng = np.random.RandomState(seed)
        for _ in range(10):
            order = rng.randint(len(images), size=rng.randint(1, 9))
            if not (model.embed(images[order], threads=1 + seed % 3) == want[order]).all():
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=[seed]) for seed in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_neither_hangs_nor_differs(model, images):
    want = model.embed(images, threads=2)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            same = (model.embed(images, threads=2) == want).all() and (model.embed(images) == want).all()
            os.write(writer, b"same" if same else b"differ")
        finally:
            os._exit(0)
    os.close(writer)
    answers = []
    listener = threading.Thread(target=lambda: answers.append(os.read(reader, 16)), daemon=True)
    listener.start()
    listener.join(60)
    if not answers:
        os.kill(child, 9)
    os.waitpid(child, 0)
    os.close(reader)
    assert answers == [b"same"]
