"""Native files, archives and HDF5 files with a hostile container give one WeightsError and touch no other file."""

import json
import os
import shutil
import struct
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from spoilers import entry, member, refused, spoil_header, tar_with

import fastmnv2
from fastmnv2.core.errors import WeightsError
from fastmnv2.weights import read
from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import native
from fastmnv2.weights.tensors import Folded
from fastmnv2.weights.untrained import untrained

# ---- safetensors ---------------------------------------------------------------------------------------


CHANGES = {
    "duplicate key": lambda h: json.dumps(h).encode()[:-1] + b',"__metadata__":{}}',
    "duplicate tensor": lambda h: (text := json.dumps(h)[1:-1]) and f"{{{text},{text}}}".encode(),
    "not an object": lambda h: b"[]",
    "deep": lambda h: b'{"a":' + b"[" * 30000 + b"]" * 30000 + b"}",
    "no metadata": lambda h: h.pop("__metadata__") and None,
    "other version": lambda h: h["__metadata__"].update(format_version="99"),
    "notes": lambda h: h["__metadata__"].update(notes="{"),
    "digest": lambda h: h["__metadata__"].update(source_sha256="\ud800"),
    "extra tensor": lambda h: h.update(extra={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
    "missing tensor": lambda h: h.pop("MobilenetV2/Conv/biases") and None,
    "overlap": lambda h: entry(h, 1).update(data_offsets=entry(h, 0)["data_offsets"]),
    "out of range": lambda h: entry(h, 0).update(data_offsets=[2**40, 2**40 + 96]),
    "negative": lambda h: entry(h, 0).update(data_offsets=[-96, 0]),
    "huge numbers": lambda h: entry(h, 0).update(data_offsets=[0, 10**400]),
    "floats": lambda h: entry(h, 0).update(data_offsets=[0.0, 96.0]),
    "dtype": lambda h: entry(h, 0).update(dtype="F16"),
    "shape": lambda h: entry(h, 0).update(shape=[2**62, 4]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_safetensors_headers(forms, tmp_path, change):
    refused(spoil_header(forms["native"], tmp_path / "n.safetensors", CHANGES[change]))


def test_safetensors_header_length(forms, tmp_path):
    data = forms["native"].read_bytes()
    for length in (2**63, 2**32, len(data), 65537, 0, 5):
        (tmp_path / "n.safetensors").write_bytes(struct.pack("<Q", length) + data[8:])
        refused(tmp_path / "n.safetensors")
    (tmp_path / "n.safetensors").write_bytes(data + b"x")
    refused(tmp_path / "n.safetensors", "follow the last tensor")


def test_writing_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")
    good = fold(untrained())
    broken = Folded("x", "y", "z", dict(good.tensors) | {"MobilenetV2/Conv_1/biases": None})
    with pytest.raises((AttributeError, TypeError)):
        native.write(path, broken)
    assert path.read_bytes() == b"old"
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        native.write(path, good)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


# ---- archives and HDF5 ---------------------------------------------------------------------------------


def test_tar_traversal_links_and_bombs(forms, tmp_path):
    outside = tmp_path / "outside.txt"
    evil = b"evil"
    refused(tar_with(tmp_path / "a.tar.gz", (member("../outside.txt", 4), evil), (member(str(outside), 4), evil)))
    link = member("variables/variables.index", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    hard = member("saved_model.pb", type=tarfile.LNKTYPE, linkname="/etc/passwd")
    refused(tar_with(tmp_path / "b.tar.gz", (link, b""), (hard, b"")))
    assert not outside.exists()
    twice = [(member("saved_model.pb", 4), evil)] * 2
    refused(tar_with(tmp_path / "c.tar.gz", *twice), "twice")
    huge = 200 << 20
    refused(tar_with(tmp_path / "d.tar.gz", (member("saved_model.pb", huge), bytes(huge))), "unpacks to more")
    refused(tar_with(tmp_path / "e.tar.gz", (member("other", huge), bytes(huge))), "unpacks to more")


def test_zip_bombs_and_other_zip_files(tmp_path):
    for name, parts in {
        "bomb.keras": {"config.json": b"{}", "model.weights.h5": bytes(200 << 20)},
        "config.keras": {"config.json": b"[" * 10**6, "model.weights.h5": b""},
        "empty.keras": {},
        "other.keras": {"readme.txt": b"x"},
    }.items():
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for part, data in parts.items():
                archive.writestr(part, data)
        refused(tmp_path / name)


@pytest.mark.parametrize("executable", ["", "/usr/sbin/uwsgi", "/opt/pythonista"])
def test_hdf5_in_a_program_that_embeds_python(forms, monkeypatch, executable):
    """An embedding program uses the installed Python's interpreter and never reads the file in its own process."""
    from fastmnv2.weights.forms import hdf5

    want = read(forms["h5"])
    monkeypatch.setattr(hdf5, "collect", lambda _: pytest.fail("read in this process"))
    monkeypatch.setattr(sys, "executable", executable)
    if hdf5._interpreter() is None:
        pytest.skip("this Python was installed without an interpreter")
    got = read(forms["h5"])
    assert all((got.tensors[name] == value).all() for name, value in want.tensors.items())


def test_hdf5_is_read_although_other_code_prints(forms, monkeypatch, tmp_path):
    """A sitecustomize, as in virtual environments and profilers, fills standard output and standard error."""
    want = read(forms["h5"])
    (tmp_path / "site").mkdir()
    prints = "import atexit, sys\nfor out in (sys.stdout, sys.stderr):\n    out.write('x' * 200_000)\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(prints + "atexit.register(print, 'bye', flush=True)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    got = read(forms["h5"])
    assert all((got.tensors[name] == value).all() for name, value in want.tensors.items())


@pytest.mark.parametrize("why", ["frozen", "nothing installed"])
def test_hdf5_without_an_interpreter_is_refused(forms, monkeypatch, tmp_path, why):
    if why == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(sys, "executable", "/usr/sbin/uwsgi")
        monkeypatch.setattr(sys, "exec_prefix", str(tmp_path))
        monkeypatch.setattr(sys, "base_exec_prefix", str(tmp_path))
    for form in ("h5", "keras"):
        refused(forms[form], "no Python interpreter; convert the file with a normal Python: fastmnv2 convert")


def test_hdf5_links_cycles_and_giants(forms, tmp_path):
    import h5py

    def spoiled(name, change):
        path = shutil.copy(forms["h5"], tmp_path / name)
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    def external(file):
        del file["Conv1/Conv1/kernel:0"]
        file["Conv1/Conv1/kernel:0"] = h5py.ExternalLink("/etc/passwd", "/x")

    def soft(file):
        del file["Conv1/Conv1/kernel:0"]
        file["Conv1/Conv1/kernel:0"] = h5py.SoftLink("/Conv_1/Conv_1/kernel:0")

    def cycle(file):
        file["Conv1/loop"] = file["/"]

    def giant(file):
        del file["Conv1/Conv1/kernel:0"]
        file["Conv1/Conv1"].create_dataset("kernel:0", (2**20, 2**20), "f4", chunks=(1024, 1024))

    def outside(file):
        del file["Conv1/Conv1/kernel:0"]
        file["Conv1/Conv1"].create_dataset("kernel:0", (3, 3, 3, 24), "f4", external=[("/etc/passwd", 0, 2592)])

    def text(file):
        del file["Conv1/Conv1/kernel:0"]
        file["Conv1/Conv1"].create_dataset("kernel:0", data=np.zeros((3, 3, 3, 24), "i8"))

    def epsilon(file):
        config = {"class_name": "BatchNormalization", "config": {"name": "bn_Conv1", "epsilon": 1e-5}}
        file.attrs["model_config"] = json.dumps({"config": {"layers": [config]}})

    refused(spoiled("external.h5", external), "link to elsewhere")
    refused(spoiled("soft.h5", soft), "link to elsewhere")
    refused(spoiled("cycle.h5", cycle))
    refused(spoiled("giant.h5", giant), r"expected shape \[3, 3, 3, 24\]")
    refused(spoiled("outside.h5", outside), "another file")
    refused(spoiled("text.h5", text), "expected floats")
    refused(spoiled("epsilon.h5", epsilon), "expected epsilon 0.001")


# ---- heads in native files ---------------------------------------------------------------------------------


def native_with_head(tmp_path):
    """A native file with a head, and a function that rewrites it with another metadata entry or header."""
    import dataclasses
    import struct

    from fastmnv2.core.head import Head, Step

    steps = (Step("dense", "d", {"kernel": np.ones((1280, 2), np.float32), "bias": np.ones(2, np.float32)}),)
    folded = dataclasses.replace(fold(untrained()), head=Head(steps, ("a", "b")), input_range=(0.0, 1.0))
    path = tmp_path / "h.safetensors"
    native.write(path, folded)
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])

    def rewritten(change):
        changed = json.loads(json.dumps(header))
        change(changed, changed["__metadata__"])
        text = json.dumps(changed).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        return path

    return rewritten


@pytest.mark.parametrize(
    ("around", "message"),
    [
        ("{", "around: expected"),
        ("[]", "around: expected"),
        ('{"other": 1}', "around: expected"),
        ('{"input_range": [0, 0]}', "input_range"),
        ('{"input_range": [0, 1, 2]}', "input_range"),
        ('{"input_range": [0, NaN]}', "input_range"),
        ('{"input_range": "ab"}', "input_range"),
        ('{"head": [{"kind": "dense"}]}', "head: expected"),
        ('{"head": 5}', "head: expected"),
        ('{"head": [{"kind": "evil", "name": "d"}]}', "expected dense, affine"),
        ('{"head": [{"kind": "affine", "name": "d"}]}', "expected scale and shift"),
        ('{"head": [{"kind": "dense", "name": "d"}], "classes": ["a"]}', "expected 2 names"),
        ('{"head": [{"kind": "dense", "name": "d"}], "classes": [1, 2]}', "classes: expected"),
        ("{}", "unexpected tensor"),
        ("[" * 100_000, "around: expected|the header"),
    ],
)
def test_native_files_with_a_hostile_head(tmp_path, around, message):
    def change(_, metadata):
        metadata["around"] = around

    with pytest.raises(WeightsError, match=message):
        fastmnv2.load(native_with_head(tmp_path)(change))


def test_native_heads_of_impossible_shapes(tmp_path):
    rewritten = native_with_head(tmp_path)
    for shape in ([2, 1280], [1280], [1280, 2, 1], [-1280, -2], [1 << 40, 1 << 40], [2560], "x", None, [True, 2560]):

        def change(header, _, shape=shape):
            header["head/0/kernel"]["shape"] = shape

        with pytest.raises(WeightsError):
            fastmnv2.load(rewritten(change))

    def older(_, metadata):
        metadata.pop("around")
        metadata["format_version"] = "1"

    with pytest.raises(WeightsError, match="unexpected tensor"):
        fastmnv2.load(rewritten(older))
    assert fastmnv2.load(rewritten(lambda *_: None)).classes == ("a", "b")
