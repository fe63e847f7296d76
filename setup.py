"""Builds the extension modules: the C core and its Cython wrappers, each instruction set with its own flags.

FASTMNV2_WERROR=1 turns compiler warnings in csrc/ into errors; FASTMNV2_OPENMP=0 builds without threads.
"""

import os
import platform
import re
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MSVC = sys.platform == "win32" and "MINGW" not in os.environ.get("MSYSTEM", "")


def target() -> str:
    """What is built for: in a cross build not ``platform.machine()``, the machine that builds."""
    found = sysconfig.get_platform().lower()
    if found.endswith("universal2"):  # macOS; one processor at a time, for each has files and flags of its own
        return os.environ.setdefault("ARCHFLAGS", f"-arch {platform.machine()}")
    return found


TARGET = target()
X86 = TARGET.endswith(("x86_64", "amd64"))
ARM64 = TARGET.endswith(("aarch64", "arm64"))

FAMILIES = {"ANY", *(["X86"] if X86 else []), *(["ARM64"] if ARM64 else [])}


def isa_flags() -> dict[str, list[str]]:
    """The sources of csrc/isas.def that this target has, each with its own flags."""
    row = re.compile(r'^(\w+)\((\w+), (\w+), \w+, \w+, \d+, "(.*)"\)$', re.MULTILINE)
    found = {}
    for family, tier, table, flags in row.findall(Path("csrc/isas.def").read_text()):
        if family in FAMILIES:
            own = flags.split()
            if MSVC:
                own = [f"/arch:AVX{'512' if '512' in flags else '2'}"] if "avx" in flags else []
            found[f"csrc/{tier}/isa/{table}.c"] = own
    return found


ISA_FLAGS = isa_flags()
CORE = sorted(str(path) for pattern in ("*.c", "*/*.c") for path in Path("csrc").glob(pattern))

if MSVC:
    C_FLAGS = ["/O2", "/std:c11", "/experimental:c11atomics", "/fp:precise"]
    WARNINGS: list[str] = []
else:
    # -ffp-contract=off: only the fused multiply-adds we write, so that every build gives the same bits.
    C_FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-fast-math", "-fvisibility=hidden"]
    WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow"]
    if os.environ.get("FASTMNV2_WERROR") == "1":
        WARNINGS.append("-Werror")

# Many Pythons' own flags ask for debug information: nine tenths of the module.
NO_DEBUG = [] if MSVC or "-g" in os.environ.get("CFLAGS", "").split() else ["-g0"]
C_FLAGS += NO_DEBUG

OPENMP = os.environ.get("FASTMNV2_OPENMP", "0" if sys.platform == "darwin" else "1") == "1"
OPENMP_FLAGS = (["/openmp"] if MSVC else ["-fopenmp"]) if OPENMP else []


def made_as(target: Path, command: str) -> bool:
    """Whether an object was made by ``command`` of files that have not changed since; the compiler listed them."""
    try:
        made, depends = target.with_suffix(".made").read_text(), target.with_suffix(".d").read_text()
        files = depends.replace("\\\n", " ").partition(": ")[2].split()
        return made == command and max(map(os.path.getmtime, files)) < os.path.getmtime(target)
    except (OSError, ValueError):
        return False


class BuildExt(build_ext):
    """Compiles csrc/ with each file's own flags, on every processor and only what changed, then the wrappers."""

    def build_extensions(self) -> None:
        # A Python of the builder's own would leave its library folder as a run path in the modules.
        if not MSVC:
            kept = [word for word in self.compiler.linker_so if not word.startswith("-Wl,-rpath")]
            self.compiler.linker_so = kept
        # The kernels take longest, so they come first.
        sources = sorted(set().union(*MODULES.values()), key=lambda source: source not in ISA_FLAGS)
        for source in sources:
            Path(self.build_temp, source).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(1 if MSVC else os.cpu_count()) as pool:
            self.objects = dict(zip(sources, pool.map(self.compile_core, sources), strict=True))
        super().build_extensions()

    def compile_core(self, source: str) -> list[str]:
        """One file of csrc/, unless its object is newer than all that it was made of."""
        flags = [*C_FLAGS, *WARNINGS, *OPENMP_FLAGS, *ISA_FLAGS.get(source, [])]
        if MSVC:
            return self.compiler.compile([source], self.build_temp, include_dirs=["csrc"], extra_postargs=flags)
        target = Path(self.build_temp, source).with_suffix(".o")
        command = " ".join([*self.compiler.compiler_so, *flags])
        if not made_as(target, command):
            target.with_suffix(".made").unlink(missing_ok=True)
            self.compiler.compile(
                [source],
                self.build_temp,
                include_dirs=["csrc"],
                extra_postargs=[*flags, "-MMD", "-MF", str(target.with_suffix(".d"))],
            )
            target.with_suffix(".made").write_text(command)
        return [str(target)]

    def build_extension(self, ext: Extension) -> None:
        ext.extra_objects = [name for source in MODULES[ext.name] for name in self.objects[source]]
        super().build_extension(ext)


HEADERS = sorted(str(path) for suffix in ("h", "inc", "def") for path in Path("csrc").rglob(f"*.{suffix}"))
FLAGS_TEXT = " ".join([*C_FLAGS, *OPENMP_FLAGS])

# One module for every CPython from 3.11 on, where the limited API has buffers. It costs 0.1 us a call, 0.01 % of one
# image's time (min of 7 x 20,000 calls with no image: 1.5 us against 1.6 us).
LIMITED = sys.version_info >= (3, 11) and not sysconfig.get_config_var("Py_GIL_DISABLED")

IMAGE = {source for source in [*CORE, *ISA_FLAGS] if Path(source).parts[1] == "image"}
SHARED = {str(Path("csrc", name)) for name in ("cpu.c", "dispatch.c")}
MODULES = {
    "fastmnv2.core._engine": sorted({*CORE, *ISA_FLAGS} - IMAGE),
    "fastmnv2.image._resize": sorted(IMAGE | SHARED),
}


def module(name: str) -> Extension:
    return Extension(
        name,
        [f"{name.replace('.', '/')}.pyx"],
        include_dirs=["csrc"],
        define_macros=[
            ("FM_BUILD_FLAGS", f'"{FLAGS_TEXT}"'),
            *([("Py_LIMITED_API", "0x030B0000")] if LIMITED else []),
        ],
        py_limited_api=LIMITED,
        extra_compile_args=[] if MSVC else ["-O2", *NO_DEBUG],
        extra_link_args=[] if MSVC else OPENMP_FLAGS,
        depends=[*HEADERS, *MODULES[name]],
    )


setup(
    ext_modules=cythonize(
        [module(name) for name in MODULES], language_level=3, compiler_directives={"freethreading_compatible": True}
    ),
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
)
