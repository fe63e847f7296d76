"""Build the extension modules: the C core, each instruction set with its own flags, and the Cython wrappers.

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
    """The platform to build for. In a cross build, its processor differs from ``platform.machine()``."""
    found = sysconfig.get_platform().lower()
    if found.endswith("universal2"):  # macOS: one processor at a time, because each has its own files and flags
        return os.environ.setdefault("ARCHFLAGS", f"-arch {platform.machine()}")
    return found


TARGET = target()
X86 = TARGET.endswith(("x86_64", "amd64"))
ARM64 = TARGET.endswith(("aarch64", "arm64"))

FAMILIES = {"ANY", *(["X86"] if X86 else []), *(["ARM64"] if ARM64 else [])}


def isa_flags() -> dict[str, list[str]]:
    """The sources in csrc/isas.def for this target, with their flags."""
    row = re.compile(r'^(\w+)\((\w+), (\w+), \w+, \w+, \d+,\s+"(.*)"\)$', re.MULTILINE)
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

CFLAGS = os.environ.get("CFLAGS", "").split()

if MSVC:
    C_FLAGS = ["/O2", "/std:c11", "/experimental:c11atomics", "/fp:precise"]
    WARNINGS: list[str] = []
else:
    # -ffp-contract=off: the compiler fuses nothing by itself, so that every build gives the same bits.
    # Sanitizer builds set -O1, because they then compile in a third of the time.
    LEVEL = "-O1" if "-O1" in CFLAGS else "-O3"
    C_FLAGS = ["-std=c11", LEVEL, "-ffp-contract=off", "-fno-fast-math", "-fvisibility=hidden"]
    WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow"]
    if os.environ.get("FASTMNV2_WERROR") == "1":
        WARNINGS.append("-Werror")

# Many Pythons compile extensions with debug information, which would be nine tenths of the module.
NO_DEBUG = [] if MSVC or "-g" in CFLAGS else ["-g0"]
C_FLAGS += NO_DEBUG

OPENMP = os.environ.get("FASTMNV2_OPENMP", "0" if sys.platform == "darwin" else "1") == "1"
OPENMP_FLAGS = (["/openmp"] if MSVC else ["-fopenmp"]) if OPENMP else []


def is_up_to_date(target: Path, command: str) -> bool:
    """Whether ``command`` made this object, and none of the files that it was compiled from has changed since."""
    try:
        last_command, depends = target.with_suffix(".made").read_text(), target.with_suffix(".d").read_text()
        files = depends.replace("\\\n", " ").partition(": ")[2].split()
        return last_command == command and max(map(os.path.getmtime, files)) < os.path.getmtime(target)
    except (OSError, ValueError):
        return False


class BuildExt(build_ext):
    """Compile csrc/ on every processor, each changed file with its own flags, then the wrappers."""

    def build_extensions(self) -> None:
        # A self-built Python would leave its library folder as a run path in the modules.
        if not MSVC:
            self.compiler.linker_so = [word for word in self.compiler.linker_so if not word.startswith("-Wl,-rpath")]
        # The kernels take longest, so they come first.
        sources = sorted(set().union(*MODULES.values()), key=lambda source: source not in ISA_FLAGS)
        for source in sources:
            Path(self.build_temp, source).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(1 if MSVC else os.cpu_count()) as pool:
            self.objects = dict(zip(sources, pool.map(self.compile_core, sources), strict=True))
        super().build_extensions()

    def compile_core(self, source: str) -> list[str]:
        """Compile one file of csrc/, unless its object is up to date. Returns the objects."""
        flags = [*C_FLAGS, *WARNINGS, *OPENMP_FLAGS, *ISA_FLAGS.get(source, [])]
        if MSVC:
            return self.compiler.compile([source], self.build_temp, include_dirs=["csrc"], extra_postargs=flags)
        target = Path(self.build_temp, source).with_suffix(".o")
        command = " ".join([*self.compiler.compiler_so, *flags])
        if not is_up_to_date(target, command):
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

# One module for every CPython from 3.11 on, the first version whose limited API has buffers. It costs 0.1 us per call,
# 0.01 % of one image's time: an empty call takes 1.6 us instead of 1.5 (minimum of 7 x 20,000 calls).
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
        extra_compile_args=[] if MSVC else ["-O1" if LEVEL == "-O1" else "-O2", *NO_DEBUG],
        extra_link_args=[] if MSVC else OPENMP_FLAGS,
        depends=[*HEADERS, *MODULES[name]],
    )


def description() -> str:
    """README for PyPI. Pictures are removed and links to files become plain text, because PyPI has no other files."""
    text = re.sub(r"^!\[.*\n\n?", "", Path("README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return re.sub(r"\[([^]]+)\]\((?!https?:)([^)]+)\)", r"\1 (\2)", text)


setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    ext_modules=cythonize(
        [module(name) for name in MODULES], language_level=3, compiler_directives={"freethreading_compatible": True}
    ),
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
)
