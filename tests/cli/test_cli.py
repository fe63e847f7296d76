"""The command line writes the API's results, refuses wrong arguments, and leaves no files when it is interrupted."""

import csv
import gc
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
from processes import start

import fastmnv2
from fastmnv2 import cli, image
from fastmnv2.image import keys

NAMES = ["a.png", "b.JPG", "sub/c.bmp", "sub/deep/d.webp"]


@pytest.fixture(scope="module")
def expected(pictures, model):
    """The vector of each picture, computed alone through the API, by path."""
    paths = [str(pictures / name) for name in NAMES]
    return {path: model.embed(image.load_image(path)) for path in paths}


def read_back(path):
    """Paths and features of an output file, read by the format's usual library."""
    if path.suffix == ".npy":
        with path.open("rb") as file:
            features, paths = np.load(file, allow_pickle=False), np.load(file, allow_pickle=False)
            assert file.read() == b""
        assert (np.load(path, mmap_mode="r") == features).all() or np.isnan(features).any()
        return paths.tolist(), features
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            assert sorted(file) == ["features", "paths"]
            return file["paths"].tolist(), file["features"]
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert header == ["path", *(f"f{i}" for i in range(1280))]
        return [row[0] for row in rows], np.array([row[1:] for row in rows], np.float32)
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    kind = table.schema.field("features").type
    assert pyarrow.types.is_fixed_size_list(kind)
    assert (kind.list_size, kind.value_type) == (1280, pyarrow.float32())
    values = table["features"].combine_chunks().flatten().to_numpy()
    return table["path"].to_pylist(), values.reshape(-1, 1280)


SUFFIXES = [".npy", ".npz", ".csv", ".parquet"]


class TestEmbed:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("batch", [1, 3, 32])
    def test_writes_the_bits_of_the_api_in_sorted_order(self, invoke, pictures, expected, tmp_path, suffix, batch):
        output = tmp_path / f"features{suffix}"
        result = invoke("embed", pictures, "-o", output, "--batch-size", batch)
        paths, features = read_back(output)
        assert paths == sorted(expected)
        assert features.dtype == np.float32
        np.testing.assert_array_equal(features, np.stack([expected[path] for path in paths]))
        assert "features of 4 pictures, 0 skipped" in result.stderr
        assert result.stdout == ""
        assert [path.name for path in tmp_path.iterdir()] == [output.name]

    def test_files_folders_and_globs_give_each_file_once(self, invoke, pictures, expected, tmp_path, monkeypatch):
        monkeypatch.chdir(pictures)
        output = tmp_path / "f.npz"
        invoke("embed", "sub", "./a.png", pictures / "a.png", "*.JPG", "**/*.bmp", "sub/deep/", "-o", output)
        paths, features = read_back(output)
        assert [os.path.relpath(path) for path in paths] == ["a.png", "b.JPG", "sub/c.bmp", "sub/deep/d.webp"]
        np.testing.assert_array_equal(features, np.stack([expected[path] for path in sorted(expected)]))

    def test_no_recursive(self, invoke, pictures, tmp_path):
        invoke("embed", pictures, "--no-recursive", "-o", tmp_path / "f.npz")
        assert read_back(tmp_path / "f.npz")[0] == [str(pictures / name) for name in ["a.png", "b.JPG"]]

    def test_normalize(self, invoke, pictures, expected, tmp_path):
        invoke("embed", pictures / "a.png", "--normalize", "-o", tmp_path / "f.npy")
        row = expected[str(pictures / "a.png")].astype(np.float64)
        np.testing.assert_allclose(read_back(tmp_path / "f.npy")[1][0], row / np.linalg.norm(row), rtol=1e-6)

    def test_unreadable_files_are_named_counted_and_skipped(self, invoke, pictures, expected, tmp_path):
        broken = tmp_path / "in" / "broken.png"
        broken.parent.mkdir()
        broken.write_bytes((pictures / "a.png").read_bytes()[:200])
        good, output = pictures / "a.png", tmp_path / "f.csv"
        result = invoke("embed", broken, good, tmp_path / "gone.jpg", tmp_path / "no*.jpg", "-o", output, code=1)
        assert f"skipped {broken}: a broken or truncated picture" in result.stderr
        assert f"skipped {tmp_path / 'gone.jpg'}: no such file" in result.stderr
        assert f"skipped {tmp_path / 'no*.jpg'}: no such file" in result.stderr
        assert "features of 1 picture, 3 skipped" in result.stderr
        paths, features = read_back(output)
        assert paths == [str(good)]
        np.testing.assert_array_equal(features[0], expected[str(good)])

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_without_readable_files_it_exits_1_and_writes_nothing(self, invoke, pictures, tmp_path, suffix):
        output = tmp_path / f"f{suffix}"
        output.write_text("kept")
        result = invoke("embed", pictures / "notes.txt", "-o", output, "--force", code=1)
        assert "none of 1 file could be read" in result.stderr
        invoke("embed", tmp_path / "empty*", "-o", output, "--force", code=1)
        assert [path.name for path in tmp_path.iterdir()] == [output.name]
        assert output.read_text() == "kept"

    def test_max_pixels_and_exif(self, invoke, pictures, tmp_path, model):
        exif = PIL.Image.Exif()
        exif[0x0112] = 3
        turned = tmp_path / "turned.png"
        PIL.Image.open(pictures / "a.png").save(turned, exif=exif)
        result = invoke("embed", turned, "--max-pixels", 5000, "-o", tmp_path / "f.npz", code=1)
        assert "at most 5000 pixels, got 120 x 90" in result.stderr
        for option, exif in (("--exif", True), ("--no-exif", False)):
            invoke("embed", turned, option, "-o", tmp_path / "f.npz", "--force")
            expected = model.embed(image.load_image(turned, exif=exif))
            np.testing.assert_array_equal(read_back(tmp_path / "f.npz")[1][0], expected)
        assert (expected != model.embed(image.load_image(turned))).any()

    @pytest.mark.parametrize("name", ["f.txt", "f", "f.npy.gz"])
    def test_other_suffixes_are_a_usage_error(self, invoke, pictures, tmp_path, name):
        assert "expected a name ending in .npy" in invoke("embed", pictures, "-o", tmp_path / name, code=2).stderr

    def test_bad_outputs_are_refused_before_the_weights_are_loaded(self, invoke, pictures, tmp_path, monkeypatch):
        monkeypatch.setattr(fastmnv2, "load", lambda *_, **__: pytest.fail("loaded"))
        (tmp_path / "folder.npy").mkdir()
        for output, message in [
            (tmp_path / "none" / "f.npy", "there is no folder"),
            (tmp_path / "folder.npy", "got a folder"),
            (tmp_path / f"{'long' * 100}.npz", f"{'long' * 100}.npz: File name too long"),
        ]:
            assert message in invoke("embed", pictures, "-o", output, code=1).stderr
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        result = invoke("embed", pictures, "-o", tmp_path / "f.parquet", code=1)
        assert "pip install 'fastmnv2[parquet]'" in result.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["folder.npy"]

    @pytest.mark.skipif(sys.platform == "win32", reason="such names can't be made there")
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_odd_names(self, invoke, pictures, tmp_path, suffix):
        folder = tmp_path / "in"
        folder.mkdir()
        names = ['comma, "quote".png', "naïve 猫.png", os.fsdecode(b"latin-\xe9.png")]
        if sys.platform != "linux":  # other file systems allow only text
            names.pop()
        names += ["two\nlines.png", "\x1b[2Jclear.png"]
        for name in names:
            (folder / name).write_bytes((pictures / "a.png").read_bytes())
        invoke("embed", folder, "-o", tmp_path / f"f{suffix}")
        if suffix == ".csv":  # the reader above is strict; surrogateescape restores bytes
            text = (tmp_path / "f.csv").read_bytes().decode("utf-8", "surrogateescape")
            found = [row[0] for row in csv.reader(text.splitlines(keepends=True))][1:]
        else:
            found = read_back(tmp_path / f"f{suffix}")[0]
        wanted = sorted(str(folder / name) for name in names)
        if suffix == ".csv":
            wanted = [name.replace("\n", "\\n").replace("\x1b", "\\x1b") for name in wanted]
        if suffix == ".parquet":
            wanted = [keys.key(name) for name in wanted]
            assert all("\udce9" not in name for name in wanted)
        assert found == wanted

    @pytest.mark.filterwarnings("error")  # pytest reports exceptions in destructors as warnings
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_an_interrupt_exits_130_and_leaves_nothing(self, invoke, pictures, tmp_path, monkeypatch, suffix):
        embed, calls = fastmnv2.Model.embed, []

        def second_fails(self, images, **options):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return embed(self, images, **options)

        monkeypatch.setattr(fastmnv2.Model, "embed", second_fails)
        output = tmp_path / f"f{suffix}"
        output.write_text("kept")
        result = invoke("embed", pictures, "--batch-size", 1, "-o", output, "--force", code=130)
        assert result.stderr == f"interrupted; {output} was not written\n"
        gc.collect()
        assert [path.name for path in tmp_path.iterdir()] == [output.name]
        assert output.read_text() == "kept"

    def test_parquet_rows_over_several_groups(self, tmp_path):
        from fastmnv2.image import outputs

        features = np.random.RandomState(0).rand(2500, 1280).astype(np.float32)
        output = tmp_path / "f.parquet"
        with outputs.open_output(output, 1280) as writer:
            reused = np.empty((500, 1280), np.float32)
            for start in range(0, 2500, 500):
                reused[:] = features[start : start + 500]
                writer.append([str(i) for i in range(start, start + 500)], reused)
        paths, found = read_back(output)
        assert paths == [str(i) for i in range(2500)]
        np.testing.assert_array_equal(found, features)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_every_float32_comes_back(self, tmp_path, suffix):
        from fastmnv2.image import outputs

        bits = np.random.RandomState(0).randint(0, 0x7F800000, (3, 1280)).astype(np.uint32)
        features = bits.view(np.float32)
        features[0, :3] = 0, np.nan, 6
        with outputs.open_output(tmp_path / f"f{suffix}", 1280) as writer:
            writer.append(["a", "b"], features[:2])
            writer.append(["c"], features[2:])
        np.testing.assert_array_equal(read_back(tmp_path / f"f{suffix}")[1], features)


class TestClassify:
    def test_prints_the_results_of_the_api(self, invoke, pictures, model):
        result = invoke("classify", pictures, "--top", 2)
        lines = [line.split("\t") for line in result.stdout.splitlines()]
        wanted = []
        for name in NAMES:
            indices, values = model.classify(image.load_image(pictures / name), top=2)
            for index, value in zip(indices, values, strict=True):
                wanted.append([str(pictures / name), str(index), f"{value:.4f}"])
        assert lines == wanted

    def test_json_holds_every_bit(self, invoke, pictures, model, tmp_path):
        labels = tmp_path / "labels.txt"
        labels.write_text("".join(f"class {i}\n" for i in range(1001)))
        result = invoke("classify", pictures / "a.png", "--json", "--labels", labels)
        (entry,) = [json.loads(line) for line in result.stdout.splitlines()]
        indices, values = model.classify(image.load_image(pictures / "a.png"))
        assert entry["path"] == str(pictures / "a.png")
        assert [row["index"] for row in entry["classes"]] == indices.tolist()
        assert [row["label"] for row in entry["classes"]] == [f"class {i}" for i in indices]
        assert [np.float32(row["probability"]) for row in entry["classes"]] == values.tolist()

    def test_1000_labels_start_after_background(self, tmp_path):
        labels = tmp_path / "labels.txt"
        labels.write_text("\n".join(f"l{i}" for i in range(1, 1001)))
        assert cli.pictures._read_labels(labels, 1001) == ["background", *(f"l{i}" for i in range(1, 1001))]

    @pytest.mark.parametrize("data", [b"", b"a\n" * 999, b"a\n" * 1002, b"\xff\n" * 1001, bytes(2 << 20)])
    def test_other_label_files_are_refused(self, invoke, pictures, tmp_path, data):
        labels = tmp_path / "labels.txt"
        labels.write_bytes(data)
        result = invoke("classify", pictures, "--labels", labels, code=1)
        assert re.fullmatch(rf"Error: {labels}: expected .*\n", result.stderr)

    def test_weights_without_logits(self, invoke, pictures, tmp_path, untrained_native):
        from dataclasses import replace

        from fastmnv2.core.network import DEFAULT
        from fastmnv2.weights import read
        from fastmnv2.weights.fold import fold
        from fastmnv2.weights.forms import native

        folded = fold(read(untrained_native))
        logits = (DEFAULT.logits.weights_name, DEFAULT.logits.biases_name)
        tensors = {name: value for name, value in folded.tensors.items() if name not in logits}
        native.write(tmp_path / "headless.safetensors", replace(folded, tensors=tensors))
        result = invoke("classify", pictures, "--weights", tmp_path / "headless.safetensors", code=1)
        assert "without the logits layer" in result.stderr
        assert result.stdout == ""

    @pytest.mark.parametrize("top", [0, 1002])
    def test_top_out_of_range(self, invoke, pictures, top):
        invoke("classify", pictures, "--top", top, "--weights", "untrained", code=1 if top else 2)

    def test_real_weights_on_real_photos(self, invoke, real_tflite, real_labels, photos):
        arguments = ("classify", photos, "--labels", real_labels, "--top", 1, "--weights", real_tflite)
        found = dict(line.split("\t")[:2] for line in invoke(*arguments).stdout.splitlines())
        for name, label in {
            "bird.bmp": "chickadee",
            "parrot.jpg": "macaw",
            "hot_dog.jpg": "hotdog",
            "chelsea.png": "Egyptian cat",
            "coffee.png": "espresso",
        }.items():
            assert found[str(photos / name)].startswith(label)


class TestConvert:
    def test_result_embeds_to_the_same_bits(self, invoke, untrained_native, tmp_path, model, images):
        target = tmp_path / "again.safetensors"
        result = invoke("convert", untrained_native, target)
        assert re.search(r"^form +native$", result.stdout, re.M)
        assert re.search(rf"^sha256 +{model.weights['sha256']}$", result.stdout, re.M)
        assert f"{target.stat().st_size:,} bytes" in result.stdout
        np.testing.assert_array_equal(fastmnv2.load(target).embed(images), model.embed(images))

    def test_existing_files_are_kept_without_force(self, invoke, untrained_native, tmp_path):
        target = tmp_path / "w.safetensors"
        target.write_text("kept")
        assert "--force" in invoke("convert", untrained_native, target, code=1).stderr
        assert target.read_text() == "kept"
        invoke("convert", untrained_native, target, "--force")
        assert target.stat().st_size > 5e6

    def test_bad_targets_and_sources(self, invoke, untrained_native, pictures, tmp_path):
        assert "expected a name ending in" in invoke("convert", untrained_native, tmp_path / "w.txt", code=1).stderr
        gone = tmp_path / "none" / "w.safetensors"
        assert "there is no folder" in invoke("convert", untrained_native, gone, code=1).stderr
        target = tmp_path / "w.safetensors"
        assert "a.png: expected" in invoke("convert", pictures / "a.png", target, code=1).stderr
        assert "no weights at" in invoke("convert", tmp_path / "gone.h5", target, code=1).stderr
        assert list(tmp_path.iterdir()) == []


class TestInfo:
    def test_text_and_json(self, invoke, untrained_native):
        found = json.loads(invoke("info", "--json").stdout)
        assert found == json.loads(json.dumps(fastmnv2.info()))
        text = invoke("info").stdout
        assert re.search(rf"^version +{re.escape(fastmnv2.__version__)}$", text, re.M)
        assert re.search(rf"^weights origin +{re.escape(str(untrained_native))}$", text, re.M)

    def test_without_weights_it_explains_how_to_get_them(self, invoke, monkeypatch):
        monkeypatch.delenv("FASTMNV2_WEIGHTS")
        assert "Three remedies" in invoke("info").stdout


class TestDemo:
    def test_without_weights_it_says_so_and_runs_untrained(self, invoke, monkeypatch):
        monkeypatch.delenv("FASTMNV2_WEIGHTS")
        monkeypatch.delenv("FASTMNV2_OFFLINE")  # the demo must not use the network even without this variable
        monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("used the network"))
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("used the network"))
        text = invoke("demo").stdout
        assert "the features mean nothing" in text
        assert re.search(r"^weights: untrained", text, re.M)
        assert fastmnv2.isa() in text

    def test_near_duplicates_are_most_similar(self, invoke):
        text = invoke("demo", "--threads", 1).stdout
        rows = re.findall(r"^ +\d (\S+ [ab]) .* (\S+ [ab])$", text, re.M)
        assert len(rows) == 6
        assert all(one != other and one.split()[0] == other.split()[0] for one, other in rows)
        assert "mean nothing" not in text
        assert re.search(r"one image, 1 thread: +[\d.]+ ms", text)

    def test_similarities(self):
        from fastmnv2.cli.demonstration import similarities

        rows = np.array([[1, 0], [1, 1], [0, 0]], np.float32)
        half = 0.5**0.5
        np.testing.assert_allclose(similarities(rows), [[1, half, 0], [half, 1, 0], [0, 0, 0]], atol=1e-12)

    def test_own_pictures(self, invoke, pictures):
        text = invoke("demo", pictures).stdout
        assert all(name.rsplit("/", 1)[-1] in text for name in NAMES)

    def test_broken_configured_weights_are_an_error(self, invoke, pictures, monkeypatch):
        monkeypatch.setenv("FASTMNV2_WEIGHTS", str(pictures / "a.png"))
        assert "a.png: expected" in invoke("demo", code=1).stderr


def test_unavailable_weights_are_one_line(invoke, pictures, tmp_path, monkeypatch):
    monkeypatch.delenv("FASTMNV2_WEIGHTS")
    result = invoke("embed", pictures, "-o", tmp_path / "f.npy", code=1)
    assert re.fullmatch(r"Error: .*Three remedies.*\n", result.stderr)
    assert list(tmp_path.iterdir()) == []


def python(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def test_as_a_module(pictures, untrained_native, tmp_path):
    done = python("-m", "fastmnv2", "embed", pictures, "-o", tmp_path / "f.npy", "--weights", untrained_native)
    assert (done.returncode, done.stdout) == (0, "")
    assert read_back(tmp_path / "f.npy")[1].shape == (4, 1280)
    assert python("-m", "fastmnv2", "--version").stdout == f"fastmnv2, version {fastmnv2.__version__}\n"
    failed = python("-m", "fastmnv2", "embed", pictures, "-o", tmp_path / "g.npy", "--weights", "nowhere")
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: there are no weights at 'nowhere'")
    assert failed.stderr.count("\n") == 1


def test_without_click_the_error_is_one_line():
    done = python("-c", "import sys; sys.modules['click'] = None; from fastmnv2.cli import main")
    assert done.returncode == 1
    assert done.stderr == "fastmnv2: the command line needs click: pip install 'fastmnv2[cli]'\n"


def test_importing_the_command_line_imports_nothing_heavy():
    heavy = ["PIL", "rich", "pyarrow", "h5py", "flatbuffers", "platformdirs", "urllib.request", "tarfile"]
    done = python("-c", f"import sys, fastmnv2.cli; print([m for m in {heavy} if m in sys.modules])")
    assert done.stdout == "[]\n"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_leave_nothing_behind(pictures, untrained_native, tmp_path, name, code):
    arguments = ["embed", pictures, "-o", tmp_path / "f.npy", "--weights", untrained_native]
    with start("slow_embed", *arguments) as process:
        assert process.stdout.readline() == "started\n"
        assert len(list(tmp_path.iterdir())) == 1  # the temporary file
        process.send_signal(getattr(signal, name))
        assert process.wait(30) == code
        assert "Traceback" not in process.stderr.read()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_bench_times_calls_and_layers(invoke):
    lines = invoke("bench", "-n", 1, "--threads", 1).stdout.splitlines()
    assert lines[1].split()[:2] == ["1", "1"]
    layers = invoke("bench", "--layers").stdout
    assert "expanded_conv_16/project" in layers
    assert layers.splitlines()[-1].startswith("all layers")
    assert "38.165" in layers.splitlines()[-1]
    assert "one thread" in invoke("bench", "--layers", "--threads", 2, code=2).stderr


def test_the_layer_times_fit_into_the_call(model):
    from fastmnv2.core import profile

    start = time.perf_counter()
    rows = profile.layers(model, calls=20)
    spent = time.perf_counter() - start
    assert len(rows) == 52
    assert sum(row.macs for row in rows) == model.network.macs == 38_165_472
    assert all(row.seconds > 0 for row in rows)
    assert sum(row.seconds for row in rows) * 20 < spent
