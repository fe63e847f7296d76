"""Compiles the C core with one of the C test programs, each instruction set with its own flags.

python tests/c/build_c.py check_kernels.c FOLDER [FLAG …] puts the program into FOLDER;
python tests/c/build_c.py --only-compile FOLDER COMPILER [FLAG …] only objects, without a test program.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLAGS = ["-std=c11", "-O2", "-g", "-ffp-contract=off", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
HOST = {"x86_64": "X86", "AMD64": "X86", "aarch64": "ARM64", "arm64": "ARM64"}.get(platform.machine(), "")
ROW = re.compile(r'^(\w+)\((\w+), (\w+), \w+, \w+, \d+,\s+"(.*)"\)$', re.MULTILINE)


def isas(family=HOST):
    """The instruction-set files of a processor family, as csrc/isas.def lists them: {tier/isa/table: flags}."""
    rows = ROW.findall((ROOT / "csrc" / "isas.def").read_text()) if (ROOT / "csrc").is_dir() else []
    return {f"{tier}/isa/{table}": flags.split() for kind, tier, table, flags in rows if kind in ("ANY", family)}


ISAS = isas()


def find_compiler(*names):
    """The first of ``names`` that is installed; the test is skipped where there is none, or no sources."""
    import pytest

    if platform.system() != "Linux":
        pytest.skip("the C test programs use Linux' mmap flags")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found or not (ROOT / "csrc").is_dir():
        pytest.skip(f"no {' or '.join(names)}, or no sources beside the tests")
    return found


# Objects that are there already, by the command that made them: test programs are many, the core is one.
_objects = {}


def core(tier=None):
    """The sources that every processor has; only what ``tier`` needs, if that is given."""
    if tier:
        return [ROOT / "csrc" / "cpu.c", ROOT / "csrc" / "dispatch.c", *sorted((ROOT / "csrc" / tier).glob("*.c"))]
    return sorted([*(ROOT / "csrc").glob("*.c"), *(ROOT / "csrc").glob("*/*.c")])


def compile_core(folder, compiler, *extra, isas=ISAS, programs=(), tier=None):
    """Every source of the core, and test programs, each with its own flags and ``extra``; the objects' paths."""
    sources = [(path, []) for path in core(tier)]
    sources += [(ROOT / "csrc" / f"{name}.c", own) for name, own in isas.items() if name.startswith(tier or "")]
    sources += [(Path(__file__).with_name(program), []) for program in programs]

    shared = [flag for flag in extra if not flag.startswith(("-Wl,", "-static"))]  # the others are the linker's

    def compile_one(source, own):
        command = (compiler, *FLAGS, *own, *shared, "-I", str(ROOT / "csrc"), "-c", str(source))
        if command not in _objects:
            parts = source.relative_to(ROOT).with_suffix(".o").parts
            target = folder / "_".join((f"{hash(command) & 0xFFFFFFFF:08x}", *parts))
            subprocess.run([*command, "-o", str(target)], check=True)
            _objects[command] = str(target)
        return _objects[command]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, *zip(*sources, strict=True)))


def build(folder, program, *extra, compiler=None, isas=ISAS, name=None, tier=None):
    """``program`` of this folder, linked with the whole core, or with what one tier needs; returns its path.

    ``isas`` are the instruction-set files and each one's own flags, ``extra`` everyone's.
    """
    compiler = compiler or find_compiler("gcc", "clang", "cc")
    objects = compile_core(folder, compiler, *extra, isas=isas, programs=[program], tier=tier)
    binary = folder / (name or Path(program).stem)
    subprocess.run([compiler, *extra, *objects, "-o", str(binary), "-lm", "-lpthread"], check=True)
    return binary


if __name__ == "__main__":
    if sys.argv[1] == "--only-compile":
        compile_core(Path(sys.argv[2]), *sys.argv[3:])
    else:
        print(build(Path(sys.argv[2]), sys.argv[1], *sys.argv[3:]))
