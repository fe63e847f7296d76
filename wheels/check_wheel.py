"""Check a built wheel: python wheels/check_wheel.py WHEEL [--weights] [--glibc 2.28]

It checks tags, contents, size, licence and description; on Linux the libraries, glibc version, run path and symbols of
the modules; and, in a fresh environment without a compiler, the import, the digest, embed and the demo. It prints a
line for each problem and then exits with status 1.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

MEGABYTE = 1 << 20
HERE = Path(__file__).resolve().parent
DIGEST_PROGRAM = str(HERE / "digest.py")
# What digest.py prints on every processor, because features are the same bits everywhere.
DIGEST = "b6b02d00fd3aa93c0b1e662d7962373a0c999cc96ebf6b60d9eabcde22fa3c26"
# Libraries that every manylinux system has, and libgomp, which a repaired wheel contains under another name.
LIBRARIES = r"lib(c|m|pthread|dl|rt)\.so\.\d+|ld-linux.*|libc\.musl-.*|libgomp(-[0-9a-f]+)?\.so\.1(\.0\.0)?"

MODULES = r"fastmnv2/(core/_engine|image/_resize)\..*(so|pyd)"

problems: list[str] = []


def expect(good: object, problem: str) -> None:
    """Note a problem unless ``good``."""
    if not good:
        problems.append(problem)


def check_contents(wheel: Path, names: list[str], weights: bool) -> None:
    name, version, *tags = wheel.stem.split("-")
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata, page = (archive.read(f"{info}/{file}").decode() for file in ("WHEEL", "METADATA"))
    expanded = {f"{a}-{b}-{c}" for a in tags[0].split(".") for b in tags[1].split(".") for c in tags[2].split(".")}
    expect(set(re.findall(r"^Tag: (\S+)", metadata, re.MULTILINE)) == expanded, f"tags: {metadata!r}, not {expanded}")
    # PyPI shows the description without the files that relative links would need.
    links = re.findall(r"\]\((?!https?:)[^)]*\)", page)
    expect(not links, f"description: links to {links}")
    folders = {entry.split("/")[0] for entry in names}
    expect(folders <= {"fastmnv2", info, "fastmnv2.libs", "fastmnv2.dylibs"}, f"folders: {folders}")
    for needed in (
        "fastmnv2/py.typed",
        "fastmnv2/core/_engine.pyi",
        "fastmnv2/image/_resize.pyi",
        f"{info}/licenses/LICENSE",
    ):
        expect(needed in names, f"{needed} is missing")
    unexpected = [entry for entry in names if entry.endswith((".c", ".h", ".pyx", ".o", ".pyc"))]
    expect(not unexpected, f"files that don't belong into a wheel: {unexpected}")
    embedded = "fastmnv2/data/imagenet.safetensors" in names
    expect(embedded == weights, f"the wheel {'contains' if embedded else 'does not contain'} weights")
    limit = 7.0 if weights else 1.5
    size = wheel.stat().st_size / MEGABYTE
    expect(size <= limit, f"{size:.2f} MB, expected at most {limit}")


def check_module(module: Path, glibc: str, repaired: bool) -> None:
    def tool(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    if not shutil.which("readelf") or module.read_bytes()[:4] != b"\x7fELF":
        print("module: not checked (no readelf, or not ELF)")
        return
    dynamic = tool("readelf", "-dW", str(module))
    needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic)
    expect(all(re.fullmatch(LIBRARIES, library) for library in needed), f"libraries: {needed}")
    paths = re.findall(r"R(?:UN)?PATH.*\[(.*)\]", dynamic)
    # Some Pythons add their own run path to every module; a published wheel must not have it.
    expect(not repaired or all(path == "$ORIGIN/../../fastmnv2.libs" for path in paths), f"run path: {paths}")
    symbols = tool("readelf", "--dyn-syms", "-W", str(module))
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([\d.]+)", symbols)}
    floor = tuple(map(int, glibc.split(".")))
    expect(max(versions, default=(0,)) <= floor, f"needs glibc {max(versions, default=())}, expected at most {glibc}")
    ours = [line.split()[-1] for line in symbols.splitlines() if " GLOBAL DEFAULT " in line and " UND " not in line]
    extra = [symbol for symbol in ours if not symbol.startswith(("PyInit__", "__pyx"))]
    expect(not extra, f"exports {extra}")


def check_installed(wheel: Path, scratch: Path, weights: bool) -> None:
    venv.create(scratch / "env", with_pip=True)
    python = scratch / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    # Variables that could change the result are removed, and compilers replaced, so that installation builds nothing.
    prefixes = ("FASTMNV2", "PYTHON", "TFHUB")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    environment = clean | {"CC": "false", "CXX": "false", "FASTMNV2_CACHE_DIR": str(scratch / "cache")}
    environment["FASTMNV2_OFFLINE"] = "1"

    def run(*arguments: str) -> str:
        command = [str(python), *arguments]
        done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
        expect(done.returncode == 0, f"{' '.join(arguments)[:60]}: {done.stderr[-1000:]}")
        return done.stdout

    run("-m", "pip", "install", "-q", "--only-binary", ":all:", str(wheel))
    for isa in run("-c", "import fastmnv2; print(*fastmnv2.available_isas())").split():
        environment["FASTMNV2_ISA"] = isa
        found = run(DIGEST_PROGRAM).strip()
        expect(found == DIGEST, f"digest on {isa}: {found}, expected {DIGEST}")
    del environment["FASTMNV2_ISA"]
    output = run(str(HERE / "embed_offline.py")).strip()
    expected = "True (2, 1280)" if weights else "False unavailable"
    expect(output == expected, f"info() and embed without the network: {output!r}, expected {expected!r}")
    run("-m", "pip", "install", "-q", "--only-binary", ":all:", f"{wheel}[cli]")
    print(run("-m", "fastmnv2", "demo"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    from_environment = os.environ.get("FASTMNV2_WHEEL_WEIGHTS") == "1"
    parser.add_argument("--weights", action="store_true", default=from_environment, help="the wheel must have weights")
    parser.add_argument("--glibc", default="2.28", help="the newest glibc that the wheel may need (default 2.28)")
    parser.add_argument("--no-install", action="store_true", help="don't install the wheel: for other platforms")
    options = parser.parse_args()
    wheel = options.wheel.resolve()
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        check_contents(wheel, names, options.weights)
        repaired = not wheel.stem.split("-")[-1].startswith("linux_")
        modules = [name for name in names if re.fullmatch(MODULES, name)]
        expect(len(modules) == 2, f"modules: expected one _engine and one _resize, got {modules}")
        for module in modules:
            check_module(Path(archive.extract(module, scratch)), options.glibc, repaired)
        if not options.no_install:
            check_installed(wheel, Path(scratch), options.weights)
    for problem in problems:
        print(f"WRONG {problem}")
    print(f"{wheel.name}: {len(problems)} problems, {wheel.stat().st_size / MEGABYTE:.2f} MB")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
