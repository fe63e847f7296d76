"""Full disks, killed processes, shared and read-only caches, odd machines: the old file or the new one, never half."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from build_c import FLAGS, ROOT, find_compiler

import fastmnv2

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits and signals")

FILL = """
import pathlib, numpy, fastmnv2
from fastmnv2.weights import cache
cache.EMBEDDED = pathlib.Path("no weights")
print(fastmnv2.load().embed(numpy.zeros((1, 96, 96, 3), "u1")).sum())
"""


def start(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_four_processes_fill_the_cache_at_once(server, cache, native_bytes):
    server.pages["/weights"] = 200, {}, native_bytes
    children = [start(FILL) for _ in range(4)]
    answers = [child.communicate(timeout=120) for child in children]
    assert len({said for said, _ in answers}) == 1, answers
    assert "Error" not in answers[0][1]
    assert [entry.name for entry in cache.iterdir()] == ["imagenet.safetensors"]
    fastmnv2.load(cache / "imagenet.safetensors")


# Whoever writes a file calls fsync when all of it is there, and renames it after that.
KILLED = """
import os, sys
os.fsync = lambda _: print("written", flush=True) or __import__("time").sleep(60)
from fastmnv2.cli import main
main()
"""


@pytest.mark.parametrize("what", ["weights", "features"])
def test_a_killed_writer_leaves_the_old_file(tmp_path, untrained_native, what):
    target = tmp_path / ("w.safetensors" if what == "weights" else "f.npz")
    target.write_bytes(b"old")
    if what == "weights":
        arguments = ["convert", untrained_native, target, "--force"]
    else:
        arguments = ["embed", picture(tmp_path), "-o", target, "--weights", untrained_native]
    with start(KILLED, *arguments) as child:
        said = child.stdout.readline()
        assert said == "written\n", said + child.stderr.read()
        child.send_signal(signal.SIGKILL)
    assert target.read_bytes() == b"old"


def picture(folder):
    from PIL import Image

    Image.new("RGB", (96, 96), "red").save(folder / "red.png")
    return folder / "red.png"


# A file may have so many bytes and no more: to a writer the same as a full disk.
FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
from fastmnv2.cli import main
main()
"""


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
        arguments = ["embed", shown, "-o", target, "--weights", untrained_native]
    _, said = (child := start(FULL, *arguments)).communicate(timeout=120)
    assert child.returncode == 1
    assert "File too large" in said
    assert "Traceback" not in said
    assert target.read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([name, "red.png"])


# Loading and every kind of call, with the n-th allocation failing, for every n that there is.
NO_MEMORY = """
import ctypes, sys, numpy as np, fastmnv2
path, images = sys.argv[1], np.random.RandomState(0).rand(5, 96, 96, 3).astype("f4")
shared = fastmnv2.load(path)
want = shared.embed(images)
def check(what, call, refuse, allow):
    failed, n = 0, 0
    while True:
        refuse(n)
        try:
            call()
        except MemoryError:
            failed += 1
        else:
            allow()
            break
        finally:
            allow()
        n += 1
    assert (shared.embed(images) == want).all()
    print(what, failed)
calls = {
    "load": lambda: fastmnv2.load(path),
    "embed": lambda: fastmnv2.load(path).embed(images, threads=3),  # a new model has no arenas yet
    "shared": lambda: shared.embed(images),
    "endpoints": lambda: shared.endpoints(images[0], "MobilenetV2/layer_19"),
}
"""
THE_CORES = """
library = ctypes.CDLL(None)
fail_after = lambda n=-1: library.fail_after(ctypes.c_long(n))
for what in calls:
    check(what, calls[what], fail_after, fail_after)
"""
# Not endpoints: they make a generator, which CPython 3.12 and 3.13 do not survive when there is no memory for it.
PYTHONS = """
import _testcapi
check("shared", calls["shared"], lambda n: _testcapi.set_nomemory(n, n + 1), _testcapi.remove_mem_hooks)
"""


def run_without_memory(code, path, **environment):
    command = [sys.executable, "-c", NO_MEMORY + code, str(path)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def test_every_allocation_of_the_core_fails_once(tmp_path, untrained_native):
    compiler, shim = find_compiler("gcc", "clang", "cc"), tmp_path / "failing.so"
    source = ROOT / "tests" / "c" / "failing_allocations.c"
    subprocess.run([compiler, *FLAGS, "-shared", "-fPIC", str(source), "-o", str(shim), "-ldl"], check=True)
    failed = run_without_memory(THE_CORES, untrained_native, LD_PRELOAD=str(shim))
    # A model and its weights; and a forward pass's arenas, which the shared model keeps.
    assert failed == {"load": 2, "embed": 5 if fastmnv2.info()["openmp"] else 3, "shared": 0, "endpoints": 0}


def test_every_allocation_of_pythons_fails_once(untrained_native):
    pytest.importorskip("_testcapi")
    failed = run_without_memory(PYTHONS, untrained_native)
    assert failed["shared"] > 3


def test_a_read_only_cache_is_read(untrained_native, tmp_path, monkeypatch):
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


ODD = """
import sys, numpy, fastmnv2
model = fastmnv2.load(sys.argv[1])
features = [model.embed(numpy.load(sys.argv[2]), threads=threads) for threads in (None, 1, 4)]
assert all((part == features[0]).all() for part in features)
print(fastmnv2.info()["threads"])
numpy.save(sys.argv[3], features[0])
"""


@pytest.mark.parametrize("machine", ["one processor", "no /proc and no /sys"])
def test_odd_machines(tmp_path, untrained_native, model, images, machine):
    np.save(tmp_path / "images.npy", images)
    files = [untrained_native, tmp_path / "images.npy", tmp_path / "features.npy"]
    command = [sys.executable, "-c", ODD, *map(str, files)]
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
