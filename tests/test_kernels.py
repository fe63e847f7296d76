"""Compiles and runs check_kernels.c: every kernel against the scalar one, bit for bit, at guard pages."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLAGS = [
    "-std=c11",
    "-O2",
    "-g",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wshadow",
    "-Werror",
]
AVX2 = ["-mavx2", "-mfma"]
AVX512 = ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"]
X86 = platform.machine() in ("x86_64", "AMD64")


@pytest.fixture(scope="module")
def compiler():
    if platform.system() != "Linux":
        pytest.skip("check_kernels.c uses Linux' mmap flags")
    found = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if not found or not (ROOT / "csrc").is_dir():
        pytest.skip("no C compiler, or no sources beside the tests")
    return found


def _run_checks(compiler, folder, avx512, *arguments):
    flags = {"scalar": [], "avx2": AVX2, "avx512": avx512, "avx512vl": avx512} if X86 else {"scalar": []}
    sources = [(path, []) for path in sorted((ROOT / "csrc").glob("*.c"))]
    sources += [(ROOT / "csrc" / "isa" / f"{name}.c", extra) for name, extra in flags.items()]
    objects = []
    for source, extra in [*sources, (ROOT / "tests" / "check_kernels.c", [])]:
        target = folder / f"{source.parent.name}_{source.stem}.o"
        include = ["-I", str(ROOT / "csrc")]
        subprocess.run([compiler, *FLAGS, *extra, *include, "-c", str(source), "-o", str(target)], check=True)
        objects.append(str(target))
    program = folder / "check_kernels"
    subprocess.run([compiler, *objects, "-lm", "-o", str(program)], check=True)
    run = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_every_kernel_equals_the_scalar_one(compiler, tmp_path):
    assert "ok   scalar" in _run_checks(compiler, tmp_path, AVX512)


@pytest.mark.skipif(not X86, reason="AVX-512 is emulated on x86 only")
def test_avx512_kernels_emulated(compiler, tmp_path):
    """The AVX-512 files with SIMDe's plain C in place of the instructions, for machines without them."""
    emulated = ["-I", str(ROOT / "tests" / "emulated"), *AVX2, "-Wno-psabi"]
    probe = subprocess.run(
        [compiler, "-E", "-x", "c", "-", "-o", "/dev/null"],
        input=b"#include <simde/x86/avx512.h>\n",
        check=False,
    )
    if probe.returncode != 0:
        pytest.skip("the SIMDe headers are not installed")
    output = _run_checks(compiler, tmp_path, emulated, "--all")
    assert "ok   avx512\n" in output
    assert "ok   avx512vl\n" in output
