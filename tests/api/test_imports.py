"""The package's modules import each other without cycles, and importing it loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import fastmnv2

PACKAGE = Path(fastmnv2.__file__).parent
EXTENSIONS = ("fastmnv2.core._engine", "fastmnv2.image._resize")


def modules():
    """The package's modules by full name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ["fastmnv2", *path.relative_to(PACKAGE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path, names):
    """A module's imports, including those in functions, but not those for type checkers only."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module in names:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in names or inner in EXTENSIONS else node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            lazy = isinstance(node.args[0], ast.JoinedStr)
            yield from (
                (f"fastmnv2.{part}" for part in fastmnv2._SUBMODULES) if lazy else [ast.literal_eval(node.args[0])]
            )


def circle(graph):
    """A cycle of modules that import each other, or None."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return None
        path.append(name)
        found = next(filter(None, map(visit, graph.get(name, ()))), None)
        path.pop()
        done.add(name)
        return found

    return next(filter(None, map(visit, graph)), None)


def test_no_circles():
    names = modules()
    graph = {name: sorted(set(imported(path, names))) for name, path in names.items()}
    assert graph["fastmnv2.cli"]
    assert "fastmnv2.weights.resolve" in graph["fastmnv2.core.model_cache"]  # a lazy import
    assert circle(graph) is None
    assert circle(graph | {"fastmnv2.core.errors": ["fastmnv2.cli"]}) is not None


def loaded(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


SHOW = "import sys; print(*sys.modules)"


def test_importing_the_package_imports_numpy_and_little_else():
    more = loaded("import fastmnv2; " + SHOW) - loaded("import numpy; " + SHOW)
    others = {name.partition(".")[0] for name in more} - sys.stdlib_module_names
    assert {name for name in others if "cython" not in name} == {"fastmnv2", "numpy"}
    assert not more & {"hashlib", "tempfile", "urllib.request", "tarfile", "zipfile", "dataclasses", "subprocess"}


def test_loading_a_native_file_imports_no_other_reader_and_no_openssl(untrained_native):
    load = f"import numpy, fastmnv2; fastmnv2.load({str(untrained_native)!r}); "
    more = loaded(load + SHOW) - loaded("import numpy; " + SHOW)
    assert {name for name in more if name.startswith("fastmnv2.weights.forms.")} == {"fastmnv2.weights.forms.native"}
    assert not more & {"hashlib", "_hashlib", "secrets", "tempfile", "urllib.request", "tarfile", "zipfile"}


def test_images_need_no_import_of_their_own():
    code = "import fastmnv2; before = 'fastmnv2.image' in sys.modules; fastmnv2.image.resize; print(before)"
    assert loaded("import sys; " + code) == {"False"}
    assert "image" in fastmnv2.__all__


def test_bundlers_find_the_parts_that_are_imported_by_name():
    """PyInstaller and similar tools read all import statements of a module, even those for type checkers only."""
    statements = ast.walk(ast.parse((PACKAGE / "__init__.py").read_text()))
    found = [node.names for node in statements if isinstance(node, ast.ImportFrom) and node.module == "fastmnv2"]
    assert {"hub", "image", "learn"} <= {alias.name for names in found for alias in names}


def test_import_paths_of_the_first_version_still_work():
    """Old import paths warn, and the constants of 0.1's only network are those of the default network."""
    program = """
import warnings
warnings.simplefilter("error")
import fastmnv2
warnings.simplefilter("ignore")
from fastmnv2.network import FEATURES, LAYERS, SIZE, Layer
from fastmnv2.model import ENDPOINT_NAMES
from fastmnv2.errors import WeightsError
from fastmnv2.post_training import Report
assert (FEATURES, SIZE, len(LAYERS), len(ENDPOINT_NAMES)) == (1280, 96, 53, 71)
assert isinstance(LAYERS[0], Layer) and WeightsError is fastmnv2.WeightsError
for wrong in ("fastmnv2.network.NONE", "fastmnv2.nothing"):
    try:
        module, _, name = wrong.rpartition(".")
        exec(f"from {module} import {name}")
    except ImportError:
        continue
    raise SystemExit(wrong)
warnings.simplefilter("error")
try:
    import fastmnv2.profile
except DeprecationWarning as warning:
    assert "fastmnv2.core.profile" in str(warning)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
