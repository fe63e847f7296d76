"""The variables of a Keras HDF5 file, read by h5py in a child process.

A malformed file can crash libhdf5, or keep it busy for ever; a guided fuzzer found such a file after 9,000 tries. So
libhdf5 runs in a child process with limited processor time and memory, which returns only numbers. The child's standard
input is the file. It answers with a line of JSON and the arrays' bytes through a separate pipe, because other code,
such as a sitecustomize, may print to standard output.
"""

import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import WeightsError
from fastmnv2.core.head import LIMIT as HEAD_LIMIT
from fastmnv2.core.network import BATCH_NORM, DEFAULT, WIDEST, of
from fastmnv2.weights.forms import keras_names
from fastmnv2.weights.tensors import from_bfloat16

if TYPE_CHECKING:
    import h5py

# HDF5's links can lead to the same data repeatedly, and names can be long. A network has 262 variables; the widest
# network's have 44 MB.
_OBJECT_LIMIT = 20_000
_DEPTH_LIMIT = 16
_NAME_LIMIT = 1000
_VARIABLES_LIMIT = 1000
_VALUES_LIMIT = 24 << 20  # the widest network has 10.8 million; some exports list every variable twice
_SECONDS = 2  # of processor time; a good file takes 0.1 s
_MEMORY = 256 << 20  # on top of the interpreter and h5py; a file of multiplier 1.4 takes 60 MB
_PATIENCE = 60  # seconds, for systems without a limit of processor time, and for very busy machines

_LEGACY = {"kernel:0": "kernel", "depthwise_kernel:0": "depthwise_kernel"}
_SUFFIX = re.compile(r"(Conv1|Conv_1|Conv_1_bn|(expanded_conv|block_\d+)_(expand|depthwise|project)(_BN)?)$")

_CHILD = "import sys; sys.path[:] = sys.argv[2:]; from fastmnv2.weights.forms import hdf5; hdf5.serve(int(sys.argv[1]))"


class Content(NamedTuple):
    """The parts of a file that the network can use.

    Attributes:
        config: the legacy model configuration, JSON, or None.
        variables: float32 arrays by ``…/<layer>/<variable>``.
        others: variables of other layers in the same form. Keras 3 may give a number instead of a variable's name.
            The array is None if it is too large for a head.
    """

    config: str | None
    variables: dict[str, NDArray[np.float32]]
    others: dict[str, NDArray[np.float32] | None]


def read(file: IO[bytes], origin: str) -> Content:
    """Read an HDF5 file from its start; ``file`` must have a file descriptor.

    Raises:
        WeightsError: if the file is malformed or exceeds the limits of time and memory, or if there is no interpreter
            for the child process, as in a frozen program.
        ImportError: if h5py is not installed.
    """
    from importlib.util import find_spec

    if find_spec("h5py") is None:
        message = f"{origin}: reading Keras weights needs h5py: pip install 'fastmnv2[keras]'"
        raise ImportError(message, name="h5py")
    return _decoded(_answer(file, origin), origin)


def _interpreter() -> str | None:
    """The path of this Python's interpreter. In a program that embeds Python, ``sys.executable`` may be the program."""
    if getattr(sys, "frozen", False):  # its prefix is not a Python installation
        return None
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}{getattr(sys, 'abiflags', '')}"
    if re.fullmatch(r"(?i)(python|pypy)w?[\d.]*[td]*(\.exe)?", os.path.basename(sys.executable or "")):
        return sys.executable
    if os.name == "nt":
        places = [os.path.join(prefix, "python.exe") for prefix in (sys.exec_prefix, sys.base_exec_prefix)]
    else:
        places = [os.path.join(prefix, "bin", name) for prefix in (sys.exec_prefix, sys.base_exec_prefix)]
    return next((place for place in places if os.access(place, os.X_OK)), None)


def _answer(file: IO[bytes], origin: str) -> bytes:
    """The child process's answer about the file."""
    interpreter = _interpreter()
    if interpreter is None:
        raise WeightsError(
            f"{origin}: HDF5 files are read in a child process, for which this program has no Python interpreter; "
            "convert the file with a normal Python: fastmnv2 convert SRC FILE.safetensors"
        )
    receiver, sender = _pipe()
    with open(receiver, "rb") as answers:
        try:
            process = _start(interpreter, sender, file)
        finally:
            os.close(sender)
        found: list[bytes] = []
        # In a thread, because the child can't end until its answer is read.
        reader = threading.Thread(target=lambda: found.append(answers.read()), daemon=True)
        with process:
            reader.start()
            try:
                _, complaints = process.communicate(timeout=_PATIENCE)
            except subprocess.TimeoutExpired as error:
                raise WeightsError(f"{origin}: the HDF5 library did not end within {_PATIENCE} s") from error
            finally:
                process.kill()
                reader.join(_PATIENCE)
    if process.returncode != 0 or not found or not found[0]:
        message = complaints.decode(errors="replace").strip().rpartition("\n")[2][:200]
        raise WeightsError(
            f"{origin}: the HDF5 library crashed or took more than {_SECONDS} s (status {process.returncode}) {message}"
        )
    return found[0]


def _pipe() -> tuple[int, int]:
    """A pipe with descriptors above 2. Lower ones may be free here, but are the child's own standard streams."""
    receiver, sender = os.pipe()
    if min(receiver, sender) > 2:
        return receiver, sender
    try:
        return _pipe()
    finally:
        os.close(receiver)
        os.close(sender)


def _start(interpreter: str, sender: int, file: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start the child process, which inherits ``sender``."""
    how: dict[str, Any]
    if os.name == "nt":
        import msvcrt

        handle = msvcrt.get_osfhandle(sender)  # type: ignore[attr-defined,unused-ignore]
        os.set_handle_inheritable(handle, True)  # type: ignore[attr-defined,unused-ignore]
        how = {"startupinfo": subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})}  # type: ignore[attr-defined,unused-ignore]
    else:
        handle, how = sender, {"pass_fds": [sender]}
    return subprocess.Popen(
        [interpreter, "-c", _CHILD, str(handle), *(place for place in sys.path if isinstance(place, str))],
        stdin=file,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        **how,
    )


def _decoded(answer: bytes, origin: str) -> Content:
    line, _, data = answer.partition(b"\n")
    header = json.loads(line)
    if "error" in header:
        raise WeightsError(f"{origin}: {header['error']}")
    at = 0

    def take(shape: list[int]) -> NDArray[np.float32]:
        nonlocal at
        values = np.frombuffer(data, "<f4", math.prod(shape), at).reshape(shape)
        at += values.nbytes
        return values

    variables = {path: take(shape) for path, shape in header["variables"]}
    others = {path: None if shape is None else take(shape) for path, shape in header["others"]}
    return Content(header["config"], variables, others)


def serve(handle: int) -> None:
    """Run the child process: read standard input and answer to a pipe (a descriptor; on Windows, a handle)."""
    import h5py  # noqa: F401 - before the limits are set, because they don't include the import

    _limit()
    arrays: list[NDArray[np.float32]] = []
    try:
        with open(0, "rb", closefd=False) as file:
            config, variables, others = collect(file)
        header: dict[str, Any] = {"config": config}
        header["variables"] = [(path, values.shape) for path, values in variables.items()]
        header["others"] = [(path, None if values is None else values.shape) for path, values in others.items()]
        arrays = [*variables.values(), *(values for values in others.values() if values is not None)]
    except Exception as error:  # h5py raises many kinds for malformed files
        header = {"error": str(error)[:1000] or type(error).__name__}
    if os.name == "nt":
        import msvcrt

        handle = msvcrt.open_osfhandle(handle, 0)  # type: ignore[attr-defined,unused-ignore]
    with open(handle, "wb") as answer:
        answer.write(json.dumps(header).encode() + b"\n")
        for values in arrays:
            answer.write(np.ascontiguousarray(values, "<f4").tobytes())


def _limit() -> None:
    """Have the operating system limit this process's time and memory."""
    try:
        import resource
    except ImportError:  # Windows
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(usage.ru_utime + usage.ru_stime) + _SECONDS

    def lower(limit: int, value: int) -> None:
        allowed = [found for found in resource.getrlimit(limit) if found != resource.RLIM_INFINITY]  # which is -1
        least = min([value, *allowed])
        resource.setrlimit(limit, (least, least))

    lower(resource.RLIMIT_CPU, seconds)
    lower(resource.RLIMIT_CORE, 0)
    try:
        with open("/proc/self/status") as status:
            taken = re.search(r"VmData:\s+(\d+) kB", status.read())
    except OSError:  # no /proc
        return
    if taken:
        lower(resource.RLIMIT_DATA, int(taken[1]) * 1024 + _MEMORY)


# ---- with h5py -----------------------------------------------------------------------------------------


def collect(file: IO[bytes]) -> Content:
    """Read the file in this process. Raises ValueError, or whatever h5py raises for a malformed file."""
    import h5py

    with h5py.File(file, "r") as root:
        config = root.attrs.get("model_config")
        if isinstance(config, bytes):
            config = config.decode()
        named = _variable_paths(dict(_datasets(root)))
        paths = {plain: named[path] for plain, path in keras_names.plain_paths(named).items()}
        used = [path for path in paths if keras_names.is_variable(path)]
        if len(used) > _VARIABLES_LIMIT:
            raise ValueError(f"{len(used)} variables with names of this network, expected at most 262")
        expected = keras_names.expected_shapes({path: paths[path].shape or () for path in used})
        variables: dict[str, NDArray[np.float32]] = {}
        total = 0
        for path in used:
            variables[path] = _values(paths[path], path, expected.get(path))
            total += variables[path].size
            if total > _VALUES_LIMIT:
                raise ValueError(f"{path}: the network's variables have more than {_VALUES_LIMIT} values")
        others = _others({path: dataset for path, dataset in paths.items() if path not in variables})
    return Content(config if isinstance(config, str) else None, variables, others)


def _others(datasets: "dict[str, h5py.Dataset]") -> dict[str, NDArray[np.float32] | None]:
    """Arrays that may belong to a head: the first small float arrays, as many as the limit allows."""
    found: dict[str, NDArray[np.float32] | None] = {}
    left = HEAD_LIMIT
    for path, dataset in sorted(datasets.items()):
        fits = dataset.ndim in (1, 2) and 0 < (dataset.size or 0) <= left and len(found) < _VARIABLES_LIMIT
        fits = fits and math.prod(dataset.chunks or ()) <= left and not (dataset.external or dataset.is_virtual)
        found[path] = _floats(dataset) if fits and _is_float(dataset) else None
        left -= dataset.size if fits else 0
    return found


def _datasets(root: "h5py.File") -> "Iterator[tuple[str, h5py.Dataset]]":
    """Datasets by path. Follows only hard links, to a limited depth because they can be cyclic."""
    import h5py

    pending: list[tuple[str, Any, int]] = [("", root, 0)]
    seen = 0
    while pending:
        path, group, depth = pending.pop()
        for name in group:
            seen += 1
            if seen > _OBJECT_LIMIT or depth > _DEPTH_LIMIT:
                raise ValueError(f"more than {_OBJECT_LIMIT} objects, or nested deeper than {_DEPTH_LIMIT}")
            if len(path) + len(name) > _NAME_LIMIT:
                raise ValueError(f"an object's path has more than {_NAME_LIMIT} characters")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{path}/{name} is a link to elsewhere, which is not followed")
            child = group[name]
            if isinstance(child, h5py.Dataset):
                yield f"{path}/{name}".lstrip("/"), child
            elif not name.startswith(("optimizer", "_optimizer")):
                pending.append((f"{path}/{name}", child, depth + 1))


def _variable_paths(datasets: "dict[str, h5py.Dataset]") -> "dict[str, h5py.Dataset]":
    """Datasets by ``…/<layer>/<variable>``. Keras 3 numbers a layer's variables and stores its name in an attribute.

    The network's layers are recognised by their order if they have no name; other layers keep their path.
    """
    groups: dict[str, set[str]] = {}  # names of the layers in each HDF5 group
    for path in datasets:
        layer = _numbered(path) or path.rpartition("/")[0]
        folder, _, name = layer.rpartition("/")
        groups.setdefault(folder if _numbered(path) else "", set()).add(name)
    ordered = {folder: keras_names.by_order(names) for folder, names in groups.items()}
    named = {}
    for path, dataset in datasets.items():
        group = _numbered(path)
        if not group:
            parent, _, variable = path.rpartition("/")
            plain = ordered[""].get(parent.rpartition("/")[2])
            named[f"{plain}/{_LEGACY.get(variable, variable)}" if plain else path] = dataset
            continue
        number, (folder, _, name) = int(path.rpartition("/")[2]), group.rpartition("/")
        stored = dataset.parent.attrs.get("name")
        if not stored:
            layer = ordered[folder].get(name, group)
        else:
            layer = stored.decode() if isinstance(stored, bytes) else str(stored)
        batch_norm = layer.endswith(("_BN", "_bn", "bn_Conv1"))
        variables: tuple[str, ...] = BATCH_NORM if batch_norm else ("kernel", "bias")
        if not _is_network_layer(layer):
            variables = ()  # the variables of other layers depend on the layer's class
        plain = f"{layer[:_NAME_LIMIT]}/{variables[number] if number < len(variables) else number}"
        named[plain if plain not in named else f"/{folder}/{plain}"] = dataset  # the same name in another model
    return named


def _numbered(path: str) -> str:
    """The layer's group in ``<group>/vars/<number>``; "" for any other path."""
    group, _, number = path.rpartition("/")
    return group.removesuffix("/vars") if group.endswith("/vars") and number.isdigit() and len(number) < 4 else ""


def _is_network_layer(layer: str) -> bool:
    """Whether a name, which may have a prefix, belongs to one of the network's layers."""
    return bool(keras_names.slim_scope(layer)) or layer in keras_names.BY_TOP or bool(_SUFFIX.search(layer))


def _values(dataset: "h5py.Dataset", path: str, expected: tuple[int, ...] | None) -> NDArray[np.float32]:
    """Check a dataset's shape, then read it: the shape bounds the memory."""
    if expected is not None and dataset.shape != expected:
        raise ValueError(
            f"{path}: expected shape {list(expected)}, got {list(dataset.shape or ())}; "
            "no multiplier gives these channels"
        )
    # HDF5 always reads complete chunks, and a chunk may be larger than its dataset.
    largest = math.prod(of(WIDEST, *DEFAULT.size).logits.weights_shape)
    if dataset.size is None or dataset.size > largest or math.prod(dataset.chunks or ()) > 4 * largest:
        raise ValueError(f"{path}: shape {dataset.shape} is too large for this network")
    if not _is_float(dataset):
        raise ValueError(f"{path}: expected floats, got {dataset.dtype}")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{path}: expected its data in this file, got a link to another file")
    return _floats(dataset)


def _is_float(dataset: "h5py.Dataset") -> bool:
    """Whether it holds floats. HDF5 has no bfloat16, so such values are stored as two opaque bytes."""
    dtype: np.dtype[Any] = dataset.dtype
    return dtype.kind == "f" or dtype.name == "bfloat16" or dtype.str == "|V2"


def _floats(dataset: "h5py.Dataset") -> NDArray[np.float32]:
    values = dataset[()]
    if dataset.dtype.str == "|V2":
        values = from_bfloat16(np.asarray(values).view("<u2"))
    return np.ascontiguousarray(values, np.float32)
