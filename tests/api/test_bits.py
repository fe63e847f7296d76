"""The same image gives the same bits in any batch, at any position, on any number of threads and instruction set."""

import subprocess
import sys

import numpy as np
import pytest

import fastmnv2


@pytest.fixture(scope="module")
def alone(model, images):
    """Each image's features, computed alone on one thread."""
    return np.stack([model.embed(image, threads=1) for image in images])


FASTEST = fastmnv2.available_isas()[-1]
SOME = range(1, 10), (1, 2, 5)  # batch sizes and threads
ALL = range(1, 71), range(1, 9)
FEWER = (1, 2, 3, 5, 9), (1, 2, 8)  # for kernels that take tens of milliseconds per image


def sweeps():
    yield pytest.param(FASTEST, *SOME, id=f"{FASTEST}-some")
    for isa in fastmnv2.available_isas():
        yield pytest.param(isa, *(FEWER if isa in ("scalar", "sse2") else ALL), marks=pytest.mark.slow, id=f"{isa}-all")


@pytest.mark.parametrize(("isa", "sizes", "counts"), list(sweeps()))
def test_batch_sizes_positions_and_thread_counts(untrained_native, images, alone, isa, sizes, counts, monkeypatch):
    monkeypatch.setenv("FASTMNV2_ISA", isa)
    model = fastmnv2.load(untrained_native)
    byte_images = (images * 255).astype(np.uint8)
    want_for_bytes = np.stack([model.embed(image, threads=1) for image in byte_images])
    for n in sizes:
        for threads in counts:
            order = (np.arange(n) + n + threads) % len(images)  # each position gets another image each time
            assert (model.embed(images[order], threads=threads) == alone[order]).all(), (n, threads)
            assert (model.embed(byte_images[order], threads=threads) == want_for_bytes[order]).all(), (n, threads)


@pytest.mark.parametrize("threads", [64, 1000])
def test_many_more_threads_than_images_or_processors(model, images, alone, threads):
    for n in (1, 2, 9):
        assert (model.embed(images[:n], threads=threads) == alone[:n]).all(), n


@pytest.mark.parametrize("isa", fastmnv2.available_isas())
def test_any_instruction_set(untrained_native, images, alone, isa, monkeypatch):
    monkeypatch.setenv("FASTMNV2_ISA", isa)
    other = fastmnv2.load(untrained_native)
    assert other.isa == isa
    for threads in (1, 2, 3):
        assert (other.embed(images[:5], threads=threads) == alone[:5]).all()
    assert (other.embed(images[9:], threads=2) == alone[9:]).all()


def test_any_way_to_the_endpoints(model, images, untrained_native, monkeypatch):
    want = model.endpoints(images[:5], threads=1)
    for threads in (2, 7):
        got = model.endpoints(images[:5], threads=threads)
        for name, value in want.items():
            assert (got[name] == value).all(), (threads, name)
    monkeypatch.setenv("FASTMNV2_ISA", "scalar")
    got = fastmnv2.load(untrained_native).endpoints(images[:1])
    for name, value in want.items():
        assert (got[name] == value[:1]).all(), name


def test_the_callers_rounding_mode_changes_nothing(model, images, alone):
    import ctypes
    import ctypes.util

    name = ctypes.util.find_library("m")
    libm = ctypes.CDLL(name)
    if not hasattr(libm, "fesetround"):
        pytest.skip("no fesetround in libm")
    upward = {"x86_64": 0x800, "AMD64": 0x800, "aarch64": 0x400000}.get(__import__("platform").machine())
    if upward is None:
        pytest.skip("rounding mode constants not known here")
    before = libm.fegetround()
    assert libm.fesetround(upward) == 0
    try:
        got = model.embed(images[:3], threads=1)
        assert libm.fegetround() == upward
    finally:
        libm.fesetround(before)
    assert (got == alone[:3]).all()


def test_the_digest_that_every_wheel_must_have():
    """A digest of features and logits from untrained weights is the same on any processor, compiler and numpy."""
    check_wheel = pytest.importorskip("check_wheel")
    command = [sys.executable, check_wheel.DIGEST_PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == check_wheel.DIGEST
