"""Compiles the C core with one of the C test programs, each instruction set with its own flags.

python tests/c/build_c.py check_kernels.c FOLDER [FLAG …] puts the program into FOLDER. Objects that setup.py has left
in build/ are used if they are up to date. Others are cached in build/c for all programs and later runs, and compiled
again if one of their sources has changed.
"""

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
OBJECTS = ROOT / "build" / "c"
FLAGS = ["-std=c11", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
OPENMP = "-fopenmp"  # programs built with only this flag share the package's objects
COMPILERS = ("gcc", "clang", "cc")
HOST = {"x86_64": "X86", "AMD64": "X86", "aarch64": "ARM64", "arm64": "ARM64"}.get(platform.machine(), "")
ROW = re.compile(r'^(\w+)\((\w+), (\w+), \w+, \w+, \d+,\s+"(.*)"\)$', re.MULTILINE)


def isas(family=HOST):
    """The instruction-set files of a processor family, as csrc/isas.def lists them: {tier/isa/table: flags}."""
    rows = ROW.findall((ROOT / "csrc" / "isas.def").read_text()) if (ROOT / "csrc").is_dir() else []
    return {f"{tier}/isa/{table}": flags.split() for kind, tier, table, flags in rows if kind in ("ANY", family)}


ISAS = isas()


def find_compiler(*names):
    """The first of ``names`` that is installed. Skips the test if none is, or if the C sources are missing."""
    import pytest

    if platform.system() != "Linux":
        pytest.skip("the C test programs use Linux' mmap flags")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found or not (ROOT / "csrc").is_dir():
        pytest.skip(f"no {' or '.join(names)}, or no sources next to the tests")
    return found


def core(tier=None):
    """The sources for every processor, which have no flags; if ``tier`` is given, only those that the tier needs."""
    folder = ROOT / "csrc"
    shared = [folder / "cpu.c", folder / "dispatch.c"] if tier else folder.glob("*.c")
    return [(path, []) for path in sorted([*shared, *folder.glob(f"{tier or '*'}/*.c")])]


@contextlib.contextmanager
def locked(path):
    """A lock, so that two test processes don't build the same file at the same time."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fresh(target):
    """Whether an object is newer than all the files that the compiler read for it."""
    try:
        files = target.with_suffix(".d").read_text().replace("\\\n", " ").partition(": ")[2].split()
        return max((ROOT / file).stat().st_mtime for file in files) < target.stat().st_mtime
    except (OSError, ValueError):
        return False


def package_object(compiler, source, own):
    """The object that setup.py compiled from ``source`` with this compiler and the flags ``own``; None if outdated."""
    for target in (ROOT / "build").glob(f"temp.*/{source.relative_to(ROOT).with_suffix('.o')}"):
        made = target.with_suffix(".made")
        used, *flags = made.read_text().split() if made.exists() else [""]
        same = os.path.realpath(shutil.which(used) or "") == os.path.realpath(compiler)
        if same and {OPENMP, *own} <= set(flags) and "-O1" not in flags and fresh(target):  # -O1 is for sanitizers
            return str(target)
    return None


def compile_one(command, source):
    """The object that ``command`` compiles from ``source``; an up-to-date one is reused."""
    compiler = os.path.realpath(command[0])
    key = hashlib.sha256("\0".join([compiler, *command, str(source)]).encode()).hexdigest()[:16]
    target = OBJECTS / f"{source.stem}-{key}.o"
    with locked(target.with_suffix(".lock")):
        if not fresh(target):
            made, listed = target.with_suffix(".made"), target.with_suffix(".d")
            subprocess.run([*command, "-MMD", "-MF", str(listed), "-c", str(source), "-o", str(made)], check=True)
            made.replace(target)
    return str(target)


def kernels(isas=ISAS, tier=None):
    """The sources of the instruction sets, each with its own flags."""
    return [(ROOT / "csrc" / f"{name}.c", own) for name, own in isas.items() if name.startswith(tier or "")]


def compile_all(compiler, sources, *extra):
    """Compile sources, each with its own flags and with ``extra``. Returns the objects' paths."""
    # Flags for the linker or for the test program don't change the core's objects.
    shared = [flag for flag in extra if not flag.startswith(("-Wl,", "-static", "-D"))]
    installed = shared == [OPENMP] and compiler == find_compiler(*COMPILERS)

    def one(source):
        path, own = source
        package = package_object(compiler, path, own) if installed else None
        return package or compile_one([compiler, *FLAGS, *own, *shared, "-I", str(ROOT / "csrc")], path)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, sources))


def build(folder, program, *extra, compiler=None, isas=ISAS, name=None, tier=None, objects=()):
    """Link ``program`` of this folder with the whole core, or with the files that one tier needs. Returns its path.

    ``isas`` has the instruction-set files and the flags of each, ``extra`` the flags of all files. ``objects`` is a
    core that is already compiled.
    """
    compiler = compiler or find_compiler(*COMPILERS)
    objects = objects or compile_all(compiler, [*kernels(isas, tier), *core(tier)], *extra)
    flags = [flag for flag in extra if not flag.startswith(("-Wl,", "-static"))]
    main = compile_one([compiler, *FLAGS, *flags, "-I", str(ROOT / "csrc")], Path(__file__).with_name(program))
    binary = folder / (name or Path(program).stem)
    subprocess.run([compiler, *extra, main, *objects, "-o", str(binary), "-lm", "-lpthread"], check=True)
    return binary


class Sanitized:
    """The package and its C core, built once with gcc's sanitizers, for the programs and for the Python tests."""

    RUNTIMES = ("libasan.so", "libubsan.so", "libstdc++.so.6")

    def __init__(self):
        import pytest

        self.compiler = find_compiler("gcc")
        for needed in ("Cython", "setuptools"):
            pytest.importorskip(needed)
        # gcc clears the upper halves of vector registers only with -fexpensive-optimizations, which -O1 lacks.
        flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-fexpensive-optimizations"]
        self.flags = [*flags, OPENMP]
        folder = ROOT / "build" / "sanitized"
        self.package = folder / "package"
        environment = os.environ | {"CC": self.compiler, "CFLAGS": " ".join(flags), "LDFLAGS": " ".join(flags)}
        build = ["build", "--build-lib", self.package, "--build-temp", folder / "objects"]
        command = [sys.executable, "setup.py", "-q", *map(str, build)]
        with locked(ROOT / "build" / "setup.lock"):  # Cython writes next to its sources
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        self.objects = sorted(map(str, (folder / "objects" / "csrc").rglob("*.o")))
        asked = [[self.compiler, f"-print-file-name={name}"] for name in self.RUNTIMES]
        self.libraries = [subprocess.check_output(command, text=True).strip() for command in asked]

    def build(self, folder, program, *extra):
        """A test program, linked with the sanitized core."""
        return build(folder, program, *self.flags, *extra, compiler=self.compiler, objects=self.objects)


if __name__ == "__main__":
    print(build(Path(sys.argv[2]), sys.argv[1], *sys.argv[3:]))
