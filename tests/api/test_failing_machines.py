"""Full disks, kills, shared caches and odd machines: a file is always the old or the complete new one."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from build_c import FLAGS, ROOT, find_compiler
from processes import program, run_program, start

import fastmnv2

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits and signals")


def test_four_processes_fill_the_cache_at_once(server, cache, native_bytes):
    server.pages["/weights"] = 200, {}, native_bytes
    children = [start("fill_the_cache") for _ in range(4)]
    answers = [child.communicate(timeout=120) for child in children]
    assert len({output for output, _ in answers}) == 1, answers
    assert "Error" not in answers[0][1]
    assert [entry.name for entry in cache.iterdir()] == ["imagenet.safetensors"]
    fastmnv2.load(cache / "imagenet.safetensors")


@pytest.mark.parametrize("what", ["weights", "features"])
def test_a_killed_writer_leaves_the_old_file(tmp_path, untrained_native, what):
    target = tmp_path / ("w.safetensors" if what == "weights" else "f.npz")
    target.write_bytes(b"old")
    if what == "weights":
        arguments = ["convert", untrained_native, target, "--force"]
    else:
        arguments = ["embed", picture(tmp_path), "-o", target, "--force", "--weights", untrained_native]
    with start("slow_writer", *arguments) as child:
        line = child.stdout.readline()
        assert line == "written\n", line + child.stderr.read()
        child.send_signal(signal.SIGKILL)
    assert target.read_bytes() == b"old"


def picture(folder):
    from PIL import Image

    Image.new("RGB", (96, 96), "red").save(folder / "red.png")
    return folder / "red.png"


@pytest.mark.parametrize("name", ["w.safetensors", "f.npy", "f.npz", "f.csv", "f.parquet"])
def test_a_full_disk_leaves_the_old_file(tmp_path, untrained_native, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    shown = picture(tmp_path)
    target = tmp_path / name
    target.write_bytes(b"old")
    if name == "w.safetensors":
        arguments = ["convert", untrained_native, target, "--force"]
    else:
        arguments = ["embed", shown, "-o", target, "--force", "--weights", untrained_native]
    _, errors = (child := start("full_disk", *arguments)).communicate(timeout=120)
    assert child.returncode == 1
    assert "File too large" in errors
    assert "Traceback" not in errors
    assert target.read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([name, "red.png"])


def run_without_memory(allocator, path, **environment):
    done = run_program("without_memory", path, allocator, env=os.environ | environment, check=False)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def test_every_allocation_of_the_core_fails_once(tmp_path, untrained_native):
    compiler, shim = find_compiler("gcc", "clang", "cc"), tmp_path / "failing.so"
    source = ROOT / "tests" / "c" / "failing_allocations.c"
    subprocess.run([compiler, *FLAGS, "-shared", "-fPIC", str(source), "-o", str(shim), "-ldl"], check=True)
    failed = run_without_memory("core", untrained_native, LD_PRELOAD=str(shim))
    # load: a model and its weights. embed: also the arenas of a forward pass, which the shared model has cached.
    assert failed == {"load": 2, "embed": 5 if fastmnv2.info()["openmp"] else 3, "shared": 0, "endpoints": 0}


def test_every_allocation_of_python_fails_once(untrained_native):
    pytest.importorskip("_testcapi")
    failed = run_without_memory("Python", untrained_native)
    assert failed["shared"] > 3


def test_a_read_only_cache_can_be_used(untrained_native, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    shutil.copy(untrained_native, folder / "imagenet.safetensors")
    os.chmod(folder / "imagenet.safetensors", 0o444)
    os.chmod(folder, 0o555)
    monkeypatch.setenv("FASTMNV2_CACHE_DIR", str(folder))
    assert fastmnv2.load().weights["form"] == "native"


def test_more_threads_than_the_machine_has(model, images):
    want = model.embed(images, threads=1)
    for threads in (3, 64, 5000):
        assert (model.embed(images, threads=threads) == want).all()


LIMITS = ["processes 1", "processes 3", "processes 5", "processes 3 later", "memory 3", "memory 20", "memory 200"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux' limits")
@pytest.mark.parametrize("limit", [*LIMITS, "group", "stack 1000000G", "stack 4G"])
def test_calls_run_without_threads_that_cant_be_started(untrained_native, limit):
    """Without our guard, OpenMP's runtimes end the process."""
    if not fastmnv2.info()["openmp"]:
        pytest.skip("built without OpenMP")
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    if limit.startswith("stack"):
        environment["OMP_STACKSIZE"] = limit.split()[1]
    with contextlib.ExitStack() as stack:
        if limit == "group":
            limit = f"group {stack.enter_context(group_of_processes(5))}"
        done = run_program("limited_threads", untrained_native, limit, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    counts = [int(count) for count in done.stdout.split() if count != "MemoryError"]
    most = {"processes 1": 1, "processes 3": 3, "processes 5": 5, "processes 3 later": 3}.get(limit, 64)
    assert max(counts) <= most
    if limit.startswith(("processes 5", "group", "memory 200", "stack 4G")):
        assert max(counts) > 2, counts  # every thread that can be started is used


@contextlib.contextmanager
def group_of_processes(most):
    """The folder of a control group that allows at most this many processes and threads."""
    for parent in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        folder = parent / f"fastmnv2-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / "pids.max").write_text(f"{most}")
        except OSError:
            folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("control groups can't be made here")


@pytest.mark.parametrize("machine", ["one processor", "no /proc and no /sys"])
def test_odd_machines(tmp_path, untrained_native, model, images, machine):
    np.save(tmp_path / "images.npy", images)
    files = [untrained_native, tmp_path / "images.npy", tmp_path / "features.npy"]
    command = program("odd_machine", *files)
    if machine == "one processor":
        if not shutil.which("taskset"):
            pytest.skip("no taskset")
        command = ["taskset", "-c", str(min(os.sched_getaffinity(0))), *command]
    else:
        hide = "mount -t tmpfs none /proc && mount -t tmpfs none /sys"
        if subprocess.run(["unshare", "-rm", "sh", "-c", hide], capture_output=True, check=False).returncode:
            pytest.skip("no mount namespaces for this user")
        command = ["unshare", "-rm", "sh", "-c", f'{hide} && exec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert machine != "one processor" or done.stdout == "1\n"
    assert (np.load(files[2]) == model.embed(images)).all()
