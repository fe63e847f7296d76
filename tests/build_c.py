"""Compiles the C core with one of the C test programs, each instruction set with its own flags.

python tests/build_c.py check_kernels.c FOLDER [FLAG …] puts the program into FOLDER.
"""

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLAGS = ["-std=c11", "-O2", "-g", "-ffp-contract=off", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
AVX2 = ["-mavx2", "-mfma"]
AVX512 = ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"]
X86 = platform.machine() in ("x86_64", "AMD64")
ISAS = {"scalar": [], "sse2": [], "avx2": AVX2, "avx512": AVX512, "avx512vl": AVX512} if X86 else {"scalar": []}
if platform.machine() in ("aarch64", "arm64"):
    ISAS["neon"] = []


def find_compiler(*names):
    """The first of ``names`` that is installed; the test is skipped where there is none, or no sources."""
    if platform.system() != "Linux":
        pytest.skip("the C test programs use Linux' mmap flags")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found or not (ROOT / "csrc").is_dir():
        pytest.skip(f"no {' or '.join(names)}, or no sources beside the tests")
    return found


def build(folder, program, *extra, compiler=None, isas=ISAS, name=None):
    """``program`` of this folder, linked with the whole core; returns its path.

    ``isas`` are the files of csrc/isa and each one's own flags, ``extra`` everyone's.
    """
    compiler = compiler or find_compiler("gcc", "clang", "cc")
    sources = [(path, []) for path in sorted((ROOT / "csrc").glob("*.c"))]
    sources += [(ROOT / "csrc" / "isa" / f"{name}.c", own) for name, own in isas.items()]
    sources.append((ROOT / "tests" / program, []))

    def compile_one(source, own):
        target = folder / f"{source.parent.name}_{source.stem}.o"
        include = ["-I", str(ROOT / "csrc")]
        subprocess.run([compiler, *FLAGS, *own, *extra, *include, "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, *zip(*sources, strict=True)))
    binary = folder / (name or Path(program).stem)
    subprocess.run([compiler, *extra, *objects, "-o", str(binary), "-lm", "-lpthread"], check=True)
    return binary


if __name__ == "__main__":
    print(build(Path(sys.argv[2]), sys.argv[1], *sys.argv[3:]))
