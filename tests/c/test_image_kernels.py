"""Compiles and runs check_image.c: resizing on every instruction set, bit for bit, at guard pages."""

import subprocess
from pathlib import Path

import pytest
from build_c import COMPILERS, HOST, ISAS, OPENMP, build, find_compiler, isas


def run_checks(program, *arguments):
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("names", "flag"),
    [
        (["gcc", "cc"], OPENMP),
        pytest.param(["clang"], "-O2", marks=pytest.mark.slow),
    ],
)
def test_every_table_equals_the_scalar_one(tmp_path, names, flag):
    program = build(tmp_path, "check_image.c", flag, tier="image", compiler=find_compiler(*names))
    checked = run_checks(program)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok   scalar" in checked.stdout
    # Errors that must be caught: one float too many, a write to an input, a multiply-add that rounds once.
    assert run_checks(program, "--mutant", "end").returncode < 0
    assert run_checks(program, "--mutant", "input").returncode < 0
    assert "blend_rows" in run_checks(program, "--mutant", "fused").stdout


def test_under_sanitizers(tmp_path):
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    assert " 0 failures" in run_checks(build(tmp_path, "check_image.c", *flags, tier="image")).stdout


@pytest.mark.slow
@pytest.mark.skipif(HOST != "X86", reason="AVX-512 is emulated on x86 only")
def test_avx512_emulated(tmp_path):
    """The AVX-512 files with SIMDe's plain C in place of the instructions, for machines without them."""
    emulated = ["-I", str(Path(__file__).with_name("emulated")), *ISAS["image/isa/avx2"], "-Wno-psabi"]
    probe = subprocess.run(
        [find_compiler(*COMPILERS), "-E", "-x", "c", "-", "-o", "/dev/null"],
        input=b"#include <simde/x86/avx512.h>\n",
        check=False,
    )
    if probe.returncode != 0:
        pytest.skip("the SIMDe headers are not installed")
    files = {name: emulated if "avx512" in name else own for name, own in ISAS.items()}
    checked = run_checks(build(tmp_path, "check_image.c", tier="image", isas=files), "--all")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok   avx512\n" in checked.stdout


@pytest.mark.slow
def test_neon_emulated(tmp_path):
    emulator, compiler = find_compiler("qemu-aarch64"), find_compiler("aarch64-linux-gnu-gcc")
    program = build(tmp_path, "check_image.c", "-static", tier="image", compiler=compiler, isas=isas("ARM64"))
    checked = run_checks(emulator, program)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok   neon\n" in checked.stdout
