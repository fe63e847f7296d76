"""Compiles and runs check_core.c: the core alone, under several compilers, sanitizers and failing allocations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from build_c import (
    COMPILERS,
    FLAGS,
    ISAS,
    OBJECTS,
    OPENMP,
    ROOT,
    Sanitized,
    build,
    compile_all,
    core,
    find_compiler,
    isas,
    kernels,
)

WRAPPED = ["-DCHECK_MEMORY", "-Wl,--wrap=calloc,--wrap=posix_memalign"]
HELD_BACK = [
    "clock_gettime",
    "fm_spread",
    "fm_follow_speeds",
    "fm_wait",
    "fm_wait_or_end",
    "fm_current_cpu",
]  # functions that check_teams.c replaces


def run_checks(program, *arguments, code=0, **environment):
    command = [str(program), *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("names", "flag"),
    [
        (["gcc", "cc"], OPENMP),  # with the package's own objects; sanitizers and mingw-w64 use -O1
        pytest.param(["clang"], "-O2", marks=pytest.mark.slow),
    ],
)
def test_the_same_bits_from_any_compiler(tmp_path, names, flag):
    program = build(tmp_path, "check_core.c", flag, compiler=find_compiler(*names))
    assert "scalar 0x" in run_checks(program, "digest")
    run_checks(program, "threads")


def test_the_digest_notices_multiply_adds_that_round_twice(tmp_path):
    """Rounding twice in the scalar table changes the last bit of some results."""
    mutant = ISAS | {"float32/isa/scalar": ["-DFP_FAST_FMAF"]}  # uses the C library's fmaf, here a wrong one
    program = build(tmp_path, "check_core.c", OPENMP, "-DCHECK_MUTANT", "-Wl,--wrap=fmaf", isas=mutant)
    assert "FAIL scalar" in run_checks(program, "digest", code=1)


@pytest.mark.slow
def test_address_and_undefined_behaviour_sanitizers(tmp_path):
    program = Sanitized().build(tmp_path, "check_core.c", *WRAPPED)
    for what in ("digest", "threads", "nested", "memory", "dense"):
        run_checks(program, what)
    caught = subprocess.run([str(program), "overrun"], capture_output=True, text=True, check=False)
    assert "heap-buffer-overflow" in caught.stderr


@pytest.mark.slow
@pytest.mark.parametrize("program", ["check_kernels.c", "check_int8.c"])
def test_kernels_under_sanitizers(tmp_path, program):
    assert " 0 failures" in run_checks(Sanitized().build(tmp_path, program))


@pytest.mark.slow
def test_the_python_api_under_sanitizers(tmp_path):
    """The tests of embed and of threads, with the extension module built with sanitizers."""
    sanitized = Sanitized()
    environment = os.environ | {"PYTHONPATH": str(sanitized.package), "LD_PRELOAD": " ".join(sanitized.libraries)}
    # The interpreter itself leaks, and is not instrumented.
    environment |= {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    tests = [str(ROOT / "tests" / name) for name in ("api/test_embed.py", "api/test_threads.py")]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-k",
        "not tensorflow",
        *tests,
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Sanitizer" not in done.stderr


@pytest.mark.slow
def test_thread_sanitizer(tmp_path, monkeypatch):
    """Many threads share one model, and OpenMP's teams compute in it.

    gcc's OpenMP runtime would cause false reports. LLVM's runtime reports its synchronisation through its tool Archer.
    """
    clang = find_compiler("clang")
    if not list(Path("/usr/lib").glob("llvm-*/lib/libarcher.so")):
        pytest.skip("no libarcher, which comes with LLVM's OpenMP runtime")
    monkeypatch.setenv("TSAN_OPTIONS", "ignore_noninstrumented_modules=1")
    program = build(tmp_path, "check_core.c", OPENMP, "-fsanitize=thread", compiler=clang)
    for what in ("threads", "nested"):
        run_checks(program, what)


@pytest.mark.slow
def test_static_analysis(tmp_path):
    """gcc's analyser reports nothing for the core and the templates, both with loops and with intrinsics.

    The other instruction sets would take three times as long. False reports are suppressed and explained in the source.
    """
    gcc = find_compiler("gcc")
    if b"-fanalyzer" not in subprocess.run([gcc, "--help=common"], capture_output=True, check=True).stdout:
        pytest.skip("this gcc has no -fanalyzer")
    some = {isa: own for isa, own in ISAS.items() if isa.endswith(("/scalar", "/avx2", "/neon"))}
    for source, own in [*core(), *kernels(some)]:
        command = [gcc, *FLAGS, *own, "-fanalyzer", OPENMP, "-I", str(ROOT / "csrc"), "-c", str(source), "-o", "o.o"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_failing_allocations_and_many_calls(tmp_path):
    program = build(tmp_path, "check_core.c", OPENMP, *WRAPPED)
    for what in ("memory", "threads", "rested"):
        run_checks(program, what)
    # Otherwise glibc soon keeps freed models for itself: resident memory then moves by megabytes.
    run_checks(program, "soak", "3000", MALLOC_MMAP_THRESHOLD_="131072")


def test_teams_with_a_late_thread(tmp_path):
    """A thread is late at any barrier of a simulated clock: the same bits, then one thread until the pause ends."""
    wraps = ",".join(f"--wrap={name}" for name in HELD_BACK)
    assert ": 0 failures" in run_checks(build(tmp_path, "check_teams.c", OPENMP, f"-Wl,{wraps}"))


@pytest.mark.slow
def test_the_same_bits_on_arm_emulated(tmp_path):
    emulator, compiler = find_compiler("qemu-aarch64"), find_compiler("aarch64-linux-gnu-gcc")
    program = build(tmp_path, "check_core.c", "-static", compiler=compiler, isas=isas("ARM64"))
    assert "neon 0x" in run_checks(emulator, program, "digest")


@pytest.mark.parametrize("levels", ["1", "2"])
def test_inside_another_parallel_region(tmp_path, monkeypatch, levels):
    monkeypatch.setenv("OMP_MAX_ACTIVE_LEVELS", levels)
    run_checks(build(tmp_path, "check_core.c", OPENMP), "nested")


@pytest.mark.slow
def test_the_same_bits_from_another_c_library(tmp_path):
    musl = find_compiler("musl-gcc")
    # Kernels call no C library function, so the kernels of the other programs are used.
    objects = compile_all(musl, core()) + compile_all(find_compiler(*COMPILERS), kernels(), OPENMP)
    program = build(tmp_path, "check_core.c", compiler=musl, objects=objects)
    assert "scalar 0x" in run_checks(program, "digest")
    run_checks(program, "threads")


@pytest.mark.slow
def test_the_same_bits_on_windows(tmp_path, monkeypatch):
    """mingw-w64's compiler, C library and OpenMP, under Wine."""
    wine, compiler = find_compiler("wine64", "wine"), find_compiler("x86_64-w64-mingw32-gcc")
    program = build(tmp_path, "check_core.c", "-static", OPENMP, "-O1", compiler=compiler, name="check_core.exe")
    monkeypatch.setenv("WINEPREFIX", str(tmp_path / "wine"))
    monkeypatch.setenv("WINEDEBUG", "-all")
    for what in ("digest", "threads", "nested"):
        run_checks(wine, program, what)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "family"), [("x86_64-macos", "X86"), ("aarch64-macos", "ARM64")])
def test_macos(tmp_path, target, family):
    """The core compiles without warnings and links. It can't be run here. ziglang has Apple's headers."""
    pytest.importorskip("ziglang")
    compiler = OBJECTS / f"zig-{target}"  # a fixed path, so that its objects are reused
    compiler.parent.mkdir(parents=True, exist_ok=True)
    compiler.write_text(f'#!/bin/sh\nexec {sys.executable} -m ziglang cc -target {target} -fno-sanitize=all "$@"\n')
    compiler.chmod(0o755)
    # zig takes the name of a processor where clang takes an architecture.
    renamed = {"-march=armv8.2-a+dotprod": "-mcpu=generic+v8_2a+dotprod"}
    tables = {table: [renamed.get(flag, flag) for flag in flags] for table, flags in isas(family).items()}
    assert build(tmp_path, "check_core.c", "-O0", compiler=str(compiler), isas=tables).exists()


@pytest.mark.slow
def test_valgrind(tmp_path):
    valgrind = find_compiler("valgrind")
    # valgrind lacks AVX-512, so this runs the best instruction set that its CPUID reports.
    program = build(tmp_path, "check_core.c", OPENMP)
    # Thread stacks that the C library keeps are "possibly" lost.
    leaks = ["--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"]
    subprocess.run([valgrind, "--error-exitcode=9", *leaks, "-q", str(program), "soak", "8"], check=True)
