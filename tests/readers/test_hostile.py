"""Malformed, truncated, foreign and hostile files: one WeightsError, soon, without much memory."""

import io
import json
import os
import pickle
import shutil
import socket
import struct
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import bombs
import fuzz_guided
import numpy as np
import pytest
from fuzz_readers import fuzz
from processes import run, start

import fastmnv2
from fastmnv2.core.errors import WeightsError
from fastmnv2.weights import read
from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import native
from fastmnv2.weights.tensors import Folded, Source
from fastmnv2.weights.untrained import untrained


def refused(path, says="."):
    with pytest.raises(WeightsError, match=says) as caught:
        fold(read(path))
    assert str(path.name) in str(caught.value) or str(path) in str(caught.value)
    return caught.value


FILES = ["archive", "h5", "weights.h5", "keras", "tflite", "native"]


@pytest.mark.parametrize("form", FILES)
def test_truncated_at_any_point(forms, form, tmp_path):
    data = forms[form].read_bytes()
    path = tmp_path / forms[form].name
    for size in [0, 1, 4, 8, 9, 60, 511, 2000, len(data) // 3, len(data) // 2, len(data) - 5000]:
        path.write_bytes(data[:size])
        refused(path)


@pytest.mark.parametrize("form", FILES)
def test_flipped_bits_are_an_error_or_change_nothing_else(forms, form, tmp_path):
    """Wherever a bit flips: either a WeightsError, or a whole network of finite numbers."""
    data = bytearray(forms[form].read_bytes())
    rng = np.random.RandomState(len(form))
    path = tmp_path / forms[form].name
    # Structure stands at the front and the end of a file, numbers in between.
    spots = [*rng.randint(0, min(4000, len(data)), 40), *(len(data) - 1 - rng.randint(0, 4000, 20))]
    spots += list(rng.randint(0, len(data), 10))
    for spot in spots:
        spoiled = data.copy()
        spoiled[spot] ^= 1 << rng.randint(8)
        path.write_bytes(spoiled)
        try:
            folded = fold(read(path))
        except WeightsError:
            continue
        assert len(folded.tensors) in (104, 106)
        assert all(np.isfinite(tensor).all() for tensor in folded.tensors.values())


@pytest.mark.parametrize("file", ["variables.index", "variables.data-00000-of-00001"])
def test_module_files_cut_flipped_or_missing(forms, tmp_path, file):
    folder = shutil.copytree(forms["module"], tmp_path / "module")
    path = folder / "variables" / file
    data = path.read_bytes()
    for size in [0, 10, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:size])
        refused(folder)
    for spot in [0, 100, len(data) // 2, len(data) - 60]:
        path.write_bytes(data[:spot] + bytes([data[spot] ^ 16]) + data[spot + 1 :])
        refused(folder)  # everything in a bundle has a checksum
    path.unlink()
    refused(folder)


def test_folders_and_files_of_no_form(tmp_path):
    refused(tmp_path, "neither")
    (tmp_path / "text.txt").write_text("hello")
    refused(tmp_path / "text.txt", "a TF1 hub module")
    (tmp_path / "p.pkl").write_bytes(pickle.dumps({"MobilenetV2/Conv/weights": np.zeros(3)}))
    refused(tmp_path / "p.pkl", "a TF1 hub module")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fastmnv2.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="imagenet"):
        fastmnv2.load("imagnet")


def test_a_pickle_is_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    for name in ("w.npy", "w.h5", "w.safetensors", "w.tflite"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        refused(tmp_path / name)


# ---- pipes, devices and impossible paths -----------------------------------------------------------------

DEVICES = {
    "pipe": lambda path: os.mkfifo(path),  # noqa: PLW0108 - Windows has none
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(path.name),
    "zeros without end": lambda path: path.symlink_to("/dev/zero"),
    "always full": lambda path: path.symlink_to("/dev/full"),
    "of the kernel": lambda path: path.symlink_to("/proc/self/pagemap"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's devices")
@pytest.mark.parametrize("make", DEVICES.values(), ids=DEVICES)
def test_pipes_and_devices_keep_nobody_waiting(tmp_path, make):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    header = bombs.record(b"", bombs.field(1, 2))
    empty = bombs.record(b"MobilenetV2/Conv/weights", bombs.entry([0], 0, 0, bytes(4)))
    os.chdir(bundle)  # a socket's path must be short
    make(bundle / "w.h5")
    refused(bundle / "w.h5")
    bombs.write_index(bundle / "m.index", [[header, empty]])
    for number in (0, 1):  # the first is read for a tensor, the other for the digest only
        shards = [bundle / f"m.data-{shard:05d}-of-00002" for shard in (number, 1 - number)]
        make(shards[0])
        shards[1].write_bytes(b"")
        refused(bundle / "m.index")
        for shard in shards:
            shard.unlink()
    make(bundle / "checkpoint")
    refused(bundle)
    (bundle / "m.index").unlink()
    make(bundle / "m.index")
    refused(bundle / "m.index")


IMPOSSIBLE = ["x" * 300, "n\0l", "\udcff\ud800", "nowhere/.index", "file/x", "loop", "loop/x", "a/" * 3000, ".index"]


@pytest.mark.parametrize("name", IMPOSSIBLE)
@pytest.mark.parametrize("kind", [str, Path])
def test_impossible_paths_are_not_found(tmp_path, name, kind):
    os.chdir(tmp_path)
    Path("file").touch()
    os.symlink("loop", "loop")
    with pytest.raises(FileNotFoundError, match="there are no weights at"):
        fastmnv2.load(kind(name))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="another user is a child process")
def test_files_that_may_not_be_read(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    (tmp_path / "w.h5").touch(mode=0)
    os.chmod(tmp_path, 0o755)
    for path in (tmp_path / "w.h5", tmp_path / "closed" / "w.h5"):
        for parent in tmp_path.parents[:3]:
            os.chmod(parent, 0o755)
        done = run("read_as_nobody", path, check=False)
        assert "Permission denied" in done.stdout, done.stderr


def test_a_file_cut_short_while_it_is_read(forms, tmp_path):
    """A mapped file would end the process (SIGBUS)."""
    path = tmp_path / "n.safetensors"
    data = forms["native"].read_bytes()
    path.write_bytes(data)
    with start("load_often", path) as child:
        child.stdout.readline()
        while child.poll() is None:
            os.truncate(path, 5000)
            path.write_bytes(data)
    assert child.returncode == 0


def test_messages_are_one_short_line(forms, tmp_path):
    long = "\x1b[2J\n\ud800" + "x" * 100_000
    graph = bombs.field(2, b"\x1b" + b"x" * 900_000 + b"/Conv1/kernel") + bombs.field(3, b"k")
    module = bombs.object_graph(tmp_path, bombs.field(1, bombs.field(2, graph)))
    cases = [module]
    for number, change in enumerate(
        [
            lambda h: h.update({long[:40_000]: {}}),
            lambda h: _entry(h, 0).update(shape=[1] * 9000),
            lambda h: h["__metadata__"].update(format_version=long[:40_000]),
        ]
    ):
        cases.append(spoil_header(forms["native"], tmp_path / f"{number}.safetensors", change))
    for name, epsilon in (("Conv_1_bn", long), ("block_" + "1" * 90_000 + "_expand", long), ("Conv_1_bn", [long] * 9)):
        config = {"class_name": "BatchNormalization", "config": {"name": name, "epsilon": epsilon}}
        cases.append(tmp_path / f"{len(cases)}.keras")
        with zipfile.ZipFile(cases[-1], "w") as archive:
            archive.writestr("config.json", json.dumps(config))
            archive.writestr("model.weights.h5", b"")
    sparse = member("\x1b\n" + "x" * 15_000, type=tarfile.GNUTYPE_SPARSE)
    cases.append(tar_with(tmp_path / "s.tar.gz", (sparse, b"")))
    for case in cases:
        says = str(refused(case))
        assert len(says) <= 1000
        assert says.isprintable()


# ---- what is wrong with the tensors --------------------------------------------------------------------


def source_with(**changes):
    tensors = dict(untrained().tensors)
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    return Source("test", "t.file", "", tensors)


CONV = "MobilenetV2/expanded_conv_3/expand"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({f"{CONV}/weights": None}, f"1 of .* missing: {CONV}/weights"),
        ({f"{CONV}/BatchNorm/beta": None}, f"missing: {CONV}/BatchNorm/beta"),
        ({f"{CONV}/BatchNorm/gamma": None, f"{CONV}/biases": None}, "missing"),
        ({f"{CONV}/weights": np.zeros((1, 1, 32, 192), "f4")}, r"expected shape \[1, 1, 24, 144\], got \[1, 1, 32"),
        ({f"{CONV}/weights": np.full((1, 1, 24, 144), np.nan, "f4")}, f"{CONV}/weights: 3456 of 3456 .* not finite"),
        ({f"{CONV}/BatchNorm/beta": np.full(144, np.inf, "f4")}, "not finite"),
        ({f"{CONV}/BatchNorm/moving_variance": np.full(144, -1, "f4")}, "no negative values"),
        ({f"{CONV}/BatchNorm/gamma": np.full(144, 3e38, "f4")}, "not finite"),
        ({"MobilenetV2/Logits/Conv2d_1c_1x1/biases": np.zeros(5, "f4")}, r"expected shape \[1001\]"),
    ],
)
def test_wrong_tensors_are_named(changes, says):
    changes = {name: value for name, value in changes.items() if name in untrained().tensors}
    with pytest.raises(WeightsError, match=says) as caught:
        fold(source_with(**changes))
    assert "t.file" in str(caught.value)


def test_another_depth_multiplier_is_recognised(tmp_path):
    import keras

    network = keras.applications.MobileNetV2(alpha=1.0, input_shape=(96, 96, 3), include_top=False, weights=None)
    network.save_weights(tmp_path / "one.weights.h5")
    refused(tmp_path / "one.weights.h5", "another depth multiplier")
    other = keras.applications.MobileNet(input_shape=(96, 96, 3), include_top=False, weights=None)
    other.save_weights(tmp_path / "v1.weights.h5")
    refused(tmp_path / "v1.weights.h5", "missing")
    from makers import converted

    (tmp_path / "one.tflite").write_bytes(converted(network))
    refused(tmp_path / "one.tflite", "another depth multiplier")


# ---- safetensors ---------------------------------------------------------------------------------------


def spoil_header(source, target, change):
    data = source.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    text = change(header)
    text = text if isinstance(text, bytes) else json.dumps(header).encode()
    target.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return target


def _entry(header, number):
    return header[sorted(name for name in header if name != "__metadata__")[number]]


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
    "overlap": lambda h: _entry(h, 1).update(data_offsets=_entry(h, 0)["data_offsets"]),
    "out of range": lambda h: _entry(h, 0).update(data_offsets=[2**40, 2**40 + 96]),
    "negative": lambda h: _entry(h, 0).update(data_offsets=[-96, 0]),
    "huge numbers": lambda h: _entry(h, 0).update(data_offsets=[0, 10**400]),
    "floats": lambda h: _entry(h, 0).update(data_offsets=[0.0, 96.0]),
    "dtype": lambda h: _entry(h, 0).update(dtype="F16"),
    "shape": lambda h: _entry(h, 0).update(shape=[2**62, 4]),
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


def tar_with(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def member(name, size=0, **fields):
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in fields.items():
        setattr(info, key, value)
    return info


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


def test_zip_bombs_and_strangers(tmp_path):
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
    """It finds the interpreter that Python was installed with, and never reads the file in this process."""
    from fastmnv2.weights.forms import hdf5

    want = read(forms["h5"])
    monkeypatch.setattr(hdf5, "collect", lambda _: pytest.fail("read in this process"))
    monkeypatch.setattr(sys, "executable", executable)
    if hdf5._interpreter() is None:
        pytest.skip("this Python was installed without an interpreter")
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
        refused(forms[form], "no Python interpreter; convert the file where there is one: fastmnv2 convert")


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


@pytest.mark.parametrize("form", ["module", "checkpoint", *FILES])
def test_mutated_files(forms, form):
    """A short run of fuzz_readers.py, always the same one."""
    answers = fuzz(form, forms[form], 100, seed=0)
    assert answers.total() == 100
    assert len(answers) > 1


@pytest.mark.parametrize("form", sorted(fuzz_guided.FORMS))
def test_what_guided_fuzzing_found(monkeypatch, tmp_path, form):
    """Seeds, files that reach far into a reader, and those that once broke one; checksums are taken for right."""
    monkeypatch.setattr("fastmnv2.weights.forms.bundle._unmasked", lambda _: fuzz_guided.Matches())
    paths = sorted((fuzz_guided.CORPUS / form).iterdir())
    assert paths
    for path in paths:
        start = time.monotonic()
        fuzz_guided.check(fuzz_guided.place(form, path.read_bytes(), tmp_path))
        assert time.monotonic() - start < 30, path  # libhdf5 is ended after 3 s of processor time


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
        ("{", "around is not"),
        ("[]", "around is not"),
        ('{"other": 1}', "around is not"),
        ('{"input_range": [0, 0]}', "input_range"),
        ('{"input_range": [0, 1, 2]}', "input_range"),
        ('{"input_range": [0, NaN]}', "input_range"),
        ('{"input_range": "ab"}', "input_range"),
        ('{"head": [{"kind": "dense"}]}', "head is not"),
        ('{"head": 5}', "head is not"),
        ('{"head": [{"kind": "evil", "name": "d"}]}', "expected dense, affine"),
        ('{"head": [{"kind": "affine", "name": "d"}]}', "expected scale and shift"),
        ('{"head": [{"kind": "dense", "name": "d"}], "classes": ["a"]}', "expected 2 names"),
        ('{"head": [{"kind": "dense", "name": "d"}], "classes": [1, 2]}', "classes is not"),
        ("{}", "unexpected tensor"),
        ("[" * 100_000, "around is not|the header"),
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
