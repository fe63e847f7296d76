"""Compiles and runs check_core.c: the core alone, under several compilers, sanitizers and failing allocations."""

import subprocess

import pytest
from build_c import ISAS, build, find_compiler

WRAPPED = ["-DCHECK_MEMORY", "-Wl,--wrap=calloc,--wrap=aligned_alloc"]


def run(program, *arguments, code=0):
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("names", "level"),
    [
        (["gcc", "cc"], "-O1"),
        (["gcc", "cc"], "-O3"),
        (["clang"], "-O2"),
        pytest.param(["gcc", "cc"], "-O2", marks=pytest.mark.long),
        pytest.param(["clang"], "-O1", marks=pytest.mark.long),
        pytest.param(["clang"], "-O3", marks=pytest.mark.long),
    ],
)
def test_the_same_bits_from_any_compiler(tmp_path, names, level):
    program = build(tmp_path, "check_core.c", level, compiler=find_compiler(*names))
    assert "scalar 0x" in run(program, "digest")


def test_the_digest_sees_a_rounding_more(tmp_path):
    """Multiply-adds that round twice on the scalar table: a difference in the last place."""
    mutant = ISAS | {"scalar": ["-DFP_FAST_FMAF"]}  # takes the C library's fmaf, here a wrong one
    program = build(tmp_path, "check_core.c", "-DCHECK_MUTANT", "-Wl,--wrap=fmaf", isas=mutant)
    assert "FAIL scalar" in run(program, "digest", code=1)


def test_address_and_undefined_behaviour_sanitizers(tmp_path):
    sanitize = ["-O1", "-fopenmp", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program = build(tmp_path, "check_core.c", *sanitize, *WRAPPED)
    for what in ("digest", "threads", "nested", "memory"):
        run(program, what)
    caught = subprocess.run([str(program), "overrun"], capture_output=True, text=True, check=False)
    assert "heap-buffer-overflow" in caught.stderr


def test_thread_sanitizer(tmp_path):
    # Without OpenMP, whose runtime is not instrumented and would be reported: many threads over one model.
    run(build(tmp_path, "check_core.c", "-fsanitize=thread"), "threads")


def test_failing_allocations_and_many_calls(tmp_path):
    program = build(tmp_path, "check_core.c", "-fopenmp", *WRAPPED)
    run(program, "memory")
    run(program, "threads")
    run(program, "soak", "3000")


def test_the_same_bits_on_arm_emulated(tmp_path):
    emulator, compiler = find_compiler("qemu-aarch64"), find_compiler("aarch64-linux-gnu-gcc")
    program = build(tmp_path, "check_core.c", "-static", compiler=compiler, isas={"scalar": [], "neon": []})
    assert "neon 0x" in run(emulator, program, "digest")


@pytest.mark.parametrize("levels", ["1", "2"])
def test_inside_another_parallel_region(tmp_path, monkeypatch, levels):
    monkeypatch.setenv("OMP_MAX_ACTIVE_LEVELS", levels)
    run(build(tmp_path, "check_core.c", "-O2", "-fopenmp"), "nested")


def test_the_same_bits_from_another_c_library(tmp_path):
    program = build(tmp_path, "check_core.c", compiler=find_compiler("musl-gcc"))
    assert "scalar 0x" in run(program, "digest")
    run(program, "threads")


def test_the_same_bits_on_windows(tmp_path, monkeypatch):
    """mingw-w64's compiler, C library and OpenMP, under Wine."""
    wine, compiler = find_compiler("wine64", "wine"), find_compiler("x86_64-w64-mingw32-gcc")
    program = build(tmp_path, "check_core.c", "-static", "-fopenmp", compiler=compiler, name="check_core.exe")
    monkeypatch.setenv("WINEPREFIX", str(tmp_path / "wine"))
    monkeypatch.setenv("WINEDEBUG", "-all")
    for what in ("digest", "threads", "nested"):
        run(wine, program, what)


@pytest.mark.long
def test_a_million_calls(tmp_path):
    print(run(build(tmp_path, "check_core.c", "-O3", "-fopenmp"), "soak", "1000000"))


@pytest.mark.long
def test_valgrind(tmp_path):
    valgrind = find_compiler("valgrind")
    # valgrind knows no AVX-512: what it runs is the best that it says it can.
    program = build(tmp_path, "check_core.c")
    # Thread stacks that the C library keeps are "possibly" lost.
    leaks = ["--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"]
    subprocess.run([valgrind, "--error-exitcode=9", *leaks, "-q", str(program), "threads"], check=True)
