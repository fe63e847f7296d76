"""Compiles and runs check_family.c: members of the family, including odd sizes, on every instruction set."""

import subprocess

import pytest
from build_c import build


@pytest.mark.parametrize(
    "what", ["rule", pytest.param("digest", marks=pytest.mark.slow), pytest.param("large", marks=pytest.mark.slow)]
)
def test_members(tmp_path, what):
    program = build(tmp_path, "check_family.c", "-fopenmp")
    done = subprocess.run([str(program), what], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{what}: 0 failures" in done.stdout
