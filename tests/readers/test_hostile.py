"""Malformed, truncated, foreign and hostile files soon give one WeightsError, and take little memory."""

import json
import os
import pickle
import shutil
import socket
import sys
import tarfile
import zipfile
from pathlib import Path

import bombs
import fuzz_guided
import numpy as np
import pytest
from fuzz_readers import fuzz
from processes import run_program, start
from spoilers import entry, member, refused, spoil_header, tar_with

import fastmnv2
from fastmnv2.core.errors import WeightsError
from fastmnv2.weights import read
from fastmnv2.weights.fold import fold
from fastmnv2.weights.tensors import Source
from fastmnv2.weights.untrained import untrained

FILES = ["archive", "h5", "weights.h5", "keras", "tflite", "native"]
SLOW_FORMS = ("h5", "weights.h5")  # each file is read in a process of its own


def quick(forms, *first):
    """The forms, of which only ``first`` are quick tests: each form takes as long as all other tests of a module."""
    return [form if form in first else pytest.param(form, marks=pytest.mark.slow) for form in forms]


@pytest.mark.parametrize("form", quick(FILES, "native", "h5"))
def test_truncated_at_any_point(forms, form, tmp_path):
    data = forms[form].read_bytes()
    path = tmp_path / forms[form].name
    for size in [0, 1, 4, 8, 9, 60, 511, 2000, len(data) // 3, len(data) // 2, len(data) - 5000]:
        path.write_bytes(data[:size])
        refused(path)


@pytest.mark.parametrize("form", quick(FILES, "native"))
def test_flipped_bits_give_an_error_or_a_complete_network(forms, form, tmp_path):
    """Any flipped bit gives either a WeightsError or a complete network of finite numbers."""
    data = bytearray(forms[form].read_bytes())
    rng = np.random.RandomState(len(form))
    path = tmp_path / forms[form].name
    # Files have structure at their beginning and end, and numbers in between.
    spots = [*rng.randint(0, min(4000, len(data)), 40), *(len(data) - 1 - rng.randint(0, 4000, 20))]
    spots += list(rng.randint(0, len(data), 10))
    for spot in spots[:: 3 if form in SLOW_FORMS else 1]:
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
    refused(tmp_path, "expected a folder with saved_model.pb")
    (tmp_path / "text.txt").write_text("hello")
    refused(tmp_path / "text.txt", "expected a hub module")
    (tmp_path / "p.pkl").write_bytes(pickle.dumps({"MobilenetV2/Conv/weights": np.zeros(3)}))
    refused(tmp_path / "p.pkl", "expected a hub module")
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
    "endless zeros": lambda path: path.symlink_to("/dev/zero"),
    "always full": lambda path: path.symlink_to("/dev/full"),
    "kernel file": lambda path: path.symlink_to("/proc/self/pagemap"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's devices")
@pytest.mark.parametrize("make", DEVICES.values(), ids=DEVICES)
def test_pipes_and_devices_are_refused_at_once(tmp_path, make):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    header = bombs.record(b"", bombs.field(1, 2))
    empty = bombs.record(b"MobilenetV2/Conv/weights", bombs.entry([0], 0, 0, bytes(4)))
    os.chdir(bundle)  # a socket's path must be short
    make(bundle / "w.h5")
    refused(bundle / "w.h5")
    bombs.write_index(bundle / "m.index", [[header, empty]])
    for number in (0, 1):  # the first holds the tensors, the other is read only for the digest
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
        done = run_program("read_as_nobody", path, check=False)
        assert "Permission denied" in done.stdout, done.stderr


def test_a_file_cut_short_while_it_is_read(forms, tmp_path):
    """If the file were mapped, the process would end with SIGBUS."""
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
            lambda h: entry(h, 0).update(shape=[1] * 9000),
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
        message = str(refused(case))
        assert len(message) <= 1000
        assert message.isprintable()


# ---- wrong tensors ------------------------------------------------------------------------------------


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
    ("changes", "message"),
    [
        ({f"{CONV}/weights": None}, f"1 of .* missing: {CONV}/weights"),
        ({f"{CONV}/BatchNorm/beta": None}, f"missing: {CONV}/BatchNorm/beta"),
        ({f"{CONV}/BatchNorm/gamma": None, f"{CONV}/biases": None}, "missing"),
        ({f"{CONV}/weights": np.zeros((1, 1, 32, 192), "f4")}, r"expected shape \[1, 1, 24, 144\], got \[1, 1, 32"),
        ({f"{CONV}/weights": np.full((1, 1, 24, 144), np.nan, "f4")}, f"{CONV}/weights: 3456 of 3456 .* not finite"),
        ({f"{CONV}/BatchNorm/beta": np.full(144, np.inf, "f4")}, "not finite"),
        ({f"{CONV}/weights": np.resize(np.float32([np.inf, -np.inf]), (1, 1, 24, 144))}, "3456 of 3456 .* not finite"),
        ({f"{CONV}/BatchNorm/moving_variance": np.full(144, -1, "f4")}, "no negative values"),
        ({f"{CONV}/BatchNorm/gamma": np.full(144, 3e38, "f4")}, "not finite"),
        ({"MobilenetV2/Logits/Conv2d_1c_1x1/biases": np.zeros(5, "f4")}, r"expected shape \[1001\]"),
    ],
)
def test_wrong_tensors_are_named(changes, message):
    changes = {name: value for name, value in changes.items() if name in untrained().tensors}
    with pytest.raises(WeightsError, match=message) as caught:
        fold(source_with(**changes))
    assert "t.file" in str(caught.value)


def test_finite_weights_may_have_an_infinite_sum():
    huge = np.full((1, 1, 24, 144), 1e37, "f4")
    assert np.isfinite(fold(source_with(**{f"{CONV}/weights": huge})).tensors[f"{CONV}/weights"]).all()


def test_another_architecture_is_refused_and_another_multiplier_is_run(tmp_path):
    import keras

    network = keras.applications.MobileNetV2(alpha=1.0, input_shape=(96, 96, 3), include_top=False, weights=None)
    network.save_weights(tmp_path / "one.weights.h5")
    refused(tmp_path / "one.weights.h5", "size=")
    assert fastmnv2.load(tmp_path / "one.weights.h5", size=96).network.name == "mobilenet_v2_100_96"
    other = keras.applications.MobileNet(input_shape=(96, 96, 3), include_top=False, weights=None)
    other.save_weights(tmp_path / "v1.weights.h5")
    refused(tmp_path / "v1.weights.h5", "missing")


@pytest.mark.slow
def test_another_multiplier_is_run_from_tflite(tmp_path):
    import keras
    from makers import converted

    network = keras.applications.MobileNetV2(alpha=1.0, input_shape=(96, 96, 3), include_top=False, weights=None)
    (tmp_path / "one.tflite").write_bytes(converted(network))
    assert fastmnv2.load(tmp_path / "one.tflite").network.name == "mobilenet_v2_100_96"


@pytest.mark.parametrize("form", quick(["module", "checkpoint", *FILES], "checkpoint", "native"))
def test_mutated_files(forms, form):
    """A short run of fuzz_readers.py with a fixed seed."""
    runs = 30 if form in SLOW_FORMS else 100
    answers = fuzz(form, forms[form], runs, seed=0)
    assert answers.total() == runs
    assert len(answers) > 1


@pytest.mark.parametrize("form", quick(sorted(fuzz_guided.FORMS), "native", "graph"))
def test_files_found_by_guided_fuzzing(monkeypatch, tmp_path, form):
    """Seeds, files that reach deep into a reader, and files that once broke one, with checksums ignored."""
    monkeypatch.setattr("fastmnv2.weights.forms.bundle._unmasked", lambda _: fuzz_guided.Matches())
    paths = sorted((fuzz_guided.CORPUS / form).iterdir())
    assert paths
    for path in paths:
        # The reader itself ends a child that hangs.
        fuzz_guided.check(fuzz_guided.place(form, path.read_bytes(), tmp_path))
