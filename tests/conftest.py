"""Shared fixtures: untrained weights, images, a local server, and real weights and photos if they are available."""

import os
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from server import Server

# `python -m pytest` puts the checkout first on sys.path, but the installed package should be tested. A checkout that
# was built in place is tested only if PYTHONPATH names it; then programs that tests start find it too.
ROOT = Path(__file__).parents[1]
if ROOT in [Path(entry).resolve() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]:
    os.environ["PYTHONPATH"] = str(ROOT)
else:
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

import fastmnv2  # noqa: E402

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# No test may use the real servers, or weights that happen to be on this machine.
os.environ["FASTMNV2_OFFLINE"] = "1"
for name in ("FASTMNV2_WEIGHTS", "FASTMNV2_ISA", "TFHUB_CACHE_DIR"):
    os.environ.pop(name, None)

DATA = Path(os.environ.get("FASTMNV2_TEST_DATA", ROOT.parent / "shared")).resolve()


# Packages without wheels for some platforms. The test extra includes all of them, so that CI skips no test.
OPTIONAL = {
    "ai_edge_litert",
    "tensorflow",
    "keras",
    "ml_dtypes",
    "h5py",
    "pyarrow",
    "safetensors",
    "sklearn",
    "threadpoolctl",
    "onnx",
    "pandas",
}


def pytest_addoption(parser):
    parser.addoption(
        "--skips",
        metavar="THINGS",
        help="fail at skips that tests/skips.txt does not excuse if THINGS are not installed",
    )


def excused(reason, missing):
    """Whether tests/skips.txt excuses this skip; ``missing`` lists the THINGs that are not installed."""
    lines = Path(__file__).with_name("skips.txt").read_text().splitlines()
    rules = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    return any(thing in {"-", *missing} and re.search(pattern, reason) for thing, pattern in rules)


def pytest_sessionfinish(session):
    missing = session.config.getoption("--skips")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if missing is None or not reporter:  # xdist's workers have no reporter
        return
    reports = reporter.stats.get("skipped", [])
    reasons = sorted({report.longrepr[2].removeprefix("Skipped: ") for report in reports})
    wrong = [reason for reason in reasons if not excused(reason, missing.split())]
    for reason in wrong:
        reporter.write_line(f"\nskipped, and not excused by tests/skips.txt: {reason}", red=True)
    if wrong and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    try:
        return (yield)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")


pytest_runtest_setup = pytest_runtest_call  # skips in fixtures too


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    os.environ["FASTMNV2_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Run each test in a temporary directory, so that programs it starts don't import the checkout from there.

    Also hides the weights that a released wheel contains.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastmnv2.weights.cache.EMBEDDED", tmp_path / "no weights")


@pytest.fixture(scope="session")
def untrained_native(tmp_path_factory):
    """Path of the untrained weights as a native file."""
    from fastmnv2.weights.fold import fold
    from fastmnv2.weights.forms import native
    from fastmnv2.weights.untrained import untrained

    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    native.write(path, fold(untrained()))
    return path


@pytest.fixture(scope="session")
def model(untrained_native):
    return fastmnv2.load(untrained_native)


@pytest.fixture(scope="session")
def images():
    """Ten float32 images in [0,1]: smooth ones, noise, black and white."""
    rng = np.random.RandomState(7)
    coarse = rng.rand(6, 6, 6, 3).repeat(16, 1).repeat(16, 2)
    noise = rng.rand(2, 96, 96, 3)
    flat = np.stack([np.zeros((96, 96, 3)), np.ones((96, 96, 3))])
    return np.concatenate([coarse, noise, flat]).astype(np.float32)


@pytest.fixture(scope="session")
def photos():
    """Folder of real photos."""
    folder = DATA / "photos"
    if not folder.is_dir():
        pytest.skip(f"no photos in {folder}; set FASTMNV2_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def real_weights():
    """Folder of trained weights."""
    folder = DATA / "weights"
    if not folder.is_dir():
        pytest.skip(f"no real weights in {folder}; set FASTMNV2_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def real_tflite():
    """Google's quantised network of the same shape (not feature_vector/2 itself)."""
    path = DATA / "weights" / "mobilenet_v2_0_75_96_quant.tflite"
    if not path.is_file():
        pytest.skip(f"no real weights at {path}; set FASTMNV2_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def real_labels(real_tflite):
    return real_tflite.with_name("imagenet_labels.txt")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder for this test only."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FASTMNV2_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def server(monkeypatch, cache):
    """A local server whose /weights is the only mirror, with downloads allowed."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("FASTMNV2_OFFLINE", "0")
        monkeypatch.setenv("FASTMNV2_URLS", server.url("/weights"))
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def native_bytes(untrained_native):
    return untrained_native.read_bytes()
