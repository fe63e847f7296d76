"""Compiles and runs check_kernels.c: every kernel against the scalar one, bit for bit, at guard pages."""

import subprocess
from pathlib import Path

import pytest
from build_c import COMPILERS, HOST, ISAS, OPENMP, build, find_compiler, isas


def run_checks(program, *arguments):
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)


def test_every_kernel_equals_the_scalar_one(tmp_path):
    program = build(tmp_path, "check_kernels.c", OPENMP)
    checked = run_checks(program)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok   scalar" in checked.stdout
    # Errors that must be caught: one float too many, at the guard page and at the canary; a write to an input; a
    # change of the caller's registers or modes.
    assert run_checks(program, "--mutant", "end").returncode < 0
    assert run_checks(program, "--mutant", "input").returncode < 0
    mutants = {"front": "was written", "control": "control word changed", "register": "a register", "upper": "upper"}
    for mutant, message in mutants.items():
        found = run_checks(program, "--mutant", mutant)
        assert message in found.stdout
        assert found.returncode == 1 or "not reported here" in found.stdout


def test_every_8_bit_kernel_equals_the_scalar_one(tmp_path):
    program = build(tmp_path, "check_int8.c", OPENMP)
    checked = run_checks(program)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok   scalar" in checked.stdout
    # Wrong convolutions that must be caught: rounding half up; rounding twice like gemmlowp; pairs of products that
    # saturate at 16 bits like vpmaddubsw's; weights one above the limit that prevents this.
    for mutant in ("half-up", "twice", "saturating", "lax"):
        found = run_checks(program, "--mutant", mutant)
        assert found.returncode == 1, f"{mutant}: {found.stdout}"
    assert run_checks(program, "--mutant", "none").returncode == 0


@pytest.mark.slow
def test_8_bit_neon_kernels_emulated(tmp_path):
    """The checks pass on an emulated processor with dot products of four bytes, and on one without."""
    emulator, compiler = find_compiler("qemu-aarch64"), find_compiler("aarch64-linux-gnu-gcc")
    program = build(tmp_path, "check_int8.c", "-static", compiler=compiler, isas=isas("ARM64"))
    for cpu, isa in (("cortex-a53", "neon"), ("max", "neondot")):
        checked = run_checks(emulator, "-cpu", cpu, str(program), isa)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert f"ok   {isa}\n" in checked.stdout
    assert "skip neondot" in run_checks(emulator, "-cpu", "cortex-a53", str(program), "neondot").stdout


@pytest.mark.slow
@pytest.mark.skipif(HOST != "X86", reason="AVX-512 is emulated on x86 only")
def test_avx512_kernels_emulated(tmp_path):
    """The AVX-512 files with SIMDe's plain C in place of the instructions, for machines without them."""
    emulated = ["-I", str(Path(__file__).with_name("emulated")), *ISAS["float32/isa/avx2"], "-Wno-psabi"]
    probe = subprocess.run(
        [find_compiler(*COMPILERS), "-E", "-x", "c", "-", "-o", "/dev/null"],
        input=b"#include <simde/x86/avx512.h>\n",
        check=False,
    )
    if probe.returncode != 0:
        pytest.skip("the SIMDe headers are not installed")
    files = {name: emulated if "avx512" in name and "int8" not in name else own for name, own in ISAS.items()}
    checked = run_checks(build(tmp_path, "check_kernels.c", OPENMP, isas=files), "--all")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok   avx512\n" in checked.stdout
    assert "ok   avx512vl\n" in checked.stdout


@pytest.mark.slow
def test_neon_kernels_emulated(tmp_path):
    emulator, compiler = find_compiler("qemu-aarch64"), find_compiler("aarch64-linux-gnu-gcc")
    program = build(tmp_path, "check_kernels.c", "-static", compiler=compiler, isas=isas("ARM64"))
    checked = run_checks(emulator, program, "neon")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok   neon\n" in checked.stdout
