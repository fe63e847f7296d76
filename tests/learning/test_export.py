"""Files of ``fastmnv2 convert`` give the same results in each ecosystem's own runtime and in our reader."""

import json
import os
import zipfile

import numpy as np
import pytest
from reference import forward

import fastmnv2
from fastmnv2 import export
from fastmnv2.core.head import Head, Step
from fastmnv2.core.network import DEFAULT
from fastmnv2.weights import Source
from fastmnv2.weights.fold import fold
from fastmnv2.weights.resolve import resolve_source
from fastmnv2.weights.untrained import untrained


def a_head():
    rng = np.random.RandomState(2)

    def values(*shape):
        return rng.normal(0, 0.2, shape).astype(np.float32)

    steps = [
        Step("affine", "norm", {"scale": values(1280) + 1, "shift": values(1280)}),
        Step("unit", "unit"),
        Step("dense", "hidden", {"kernel": values(1280, 30) * 4, "bias": values(30)}),
        Step("relu", "hidden"),
        Step("dense", "out", {"kernel": values(30, 3), "bias": values(3)}),
        Step("softmax", "out"),
    ]
    return Head(tuple(steps), ("cat", "dog", "fox"))


@pytest.fixture(scope="module")
def sources():
    """Networks with logits, with a head and another input range, and folded."""
    variables = untrained(seed=9).tensors
    plain = {name: values for name, values in variables.items() if "Logits" not in name}
    return {
        "logits": Source("hub", "test", "", variables),
        "head": Source("hub", "test", "", plain, input_range=(0.0, 1.0), head=a_head()),
        "folded": fold(Source("hub", "test", "", plain)),
    }


@pytest.fixture(scope="module")
def pictures():
    from fastmnv2.weights.untrained import _images

    return _images(np.random.RandomState(8), 8).astype(np.float32)


SLOW = pytest.mark.slow


@pytest.fixture(params=["logits", pytest.param("head", marks=SLOW), pytest.param("folded", marks=SLOW)])
def case(request, sources):
    """Kind, source, and our own model of it, which other tests compare with TensorFlow."""
    from fastmnv2.core.model import Model

    source = sources[request.param]
    return request.param, source, Model(fold(source))


def near(got, want, bar=5e-6):
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) <= bar * np.linalg.norm(want)


def read_back(path, case, pictures, bar=5e-6):
    """Our own reader finds the same network in the written file."""
    kind, _, model = case
    again = fastmnv2.load(path)
    near(again.embed(pictures), model.embed(pictures), bar)
    np.testing.assert_allclose(again.weights["input_range"], model.weights["input_range"])
    if kind == "logits":
        near(again.logits(pictures), model.logits(pictures), bar)
    return again


@pytest.mark.parametrize("suffix", ["keras", pytest.param("h5", marks=SLOW)])
def test_keras(case, pictures, tmp_path, suffix):
    import keras

    kind, source, model = case
    path = tmp_path / f"m.{suffix}"
    export.write(path, source)
    theirs = keras.models.load_model(path)
    assert {type(layer).__module__.split(".")[0] for layer in theirs.layers} == {"keras"}
    want = model.embed(pictures) if kind == "folded" else model.predict(pictures)
    near(np.asarray(theirs(pictures, training=False)), want, 1e-5)
    again = read_back(path, case, pictures)
    if kind == "head":
        near(again.predict(pictures), model.predict(pictures))
        assert again.classes == (("cat", "dog", "fox") if suffix == "keras" else None)
    found = resolve_source(path)
    for layer in DEFAULT.layers[:-1]:  # batch norms are kept, if there are any
        name = f"{layer.scope}/BatchNorm/gamma"
        assert (found.tensors[name] == source.tensors.get(name, 1)).all()


def test_tflite(case, pictures, tmp_path):
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    kind, source, model = case
    path = tmp_path / "m.tflite"
    export.write(path, source)
    interpreter = interpreters.Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner()
    outputs = [runner(images=pictures[i : i + 1]) for i in range(len(pictures))]
    near(np.concatenate([one["features"] for one in outputs]), model.embed(pictures))
    if kind == "logits":
        near(np.concatenate([one["logits"] for one in outputs]), model.logits(pictures))
    if kind == "head":
        near(np.concatenate([one["predictions"] for one in outputs]), model.predict(pictures), 2e-5)
    again = read_back(
        path, case, pictures
    )  # also the input range, which the graph does not show because it takes [0,1]
    if kind == "head":
        near(again.predict(pictures), model.predict(pictures), 2e-5)
        assert again.classes == ("cat", "dog", "fox")


def test_onnx(case, pictures, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    kind, source, model = case
    path = tmp_path / "m.onnx"
    export.write(path, source)
    session = runtime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {"images": pictures}), strict=True))
    near(outputs["features"], model.embed(pictures))
    if kind == "logits":
        near(outputs["logits"], model.logits(pictures))
    if kind == "head":
        near(outputs["predictions"], model.predict(pictures), 2e-5)
    near(session.run(["features"], {"images": pictures[:1]})[0], model.embed(pictures[:1]))


@SLOW
def test_saved_model(case, pictures, tmp_path):
    import tensorflow as tf

    kind, source, model = case
    path = tmp_path / "folder"
    export.write(path, source)
    theirs = tf.saved_model.load(str(path))
    near(theirs(tf.constant(pictures)).numpy(), model.embed(pictures))
    outputs = theirs.signatures["serving_default"](images=tf.constant(pictures))
    near(outputs["features"].numpy(), model.embed(pictures))
    if kind == "logits":
        near(outputs["logits"].numpy(), model.logits(pictures))
    if kind == "head":
        near(outputs["predictions"].numpy(), model.predict(pictures), 2e-5)
    read_back(path, case, pictures)


@SLOW
def test_tensorflow_hub_takes_the_saved_model(sources, pictures, tmp_path):
    """``hub.load`` and ``hub.KerasLayer``; the latter needs Keras 2, which is tf_keras."""
    import sys
    import types

    sys.modules.setdefault("pkg_resources", types.SimpleNamespace(parse_version=lambda text: text))
    hub = pytest.importorskip("tensorflow_hub", exc_type=ImportError)
    path = tmp_path / "folder"
    export.write(path, sources["logits"])
    want = fastmnv2.load(path).embed(pictures)
    near(hub.load(str(path))(pictures).numpy(), want)
    near(hub.KerasLayer(str(path))(pictures).numpy(), want)


def test_the_reference_agrees_with_the_exported_network(sources, pictures, tmp_path):
    export.write(tmp_path / "m.safetensors", sources["logits"])
    near(
        fastmnv2.load(tmp_path / "m.safetensors").embed(pictures),
        forward(sources["logits"].tensors, pictures)["default"],
    )


def test_files_are_written_atomically(sources, tmp_path, monkeypatch):
    from fastmnv2.export import onnx_file

    pytest.importorskip("onnx")
    old = tmp_path / "m.onnx"
    old.write_text("old")

    def failing(path, *_):
        path.write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr(onnx_file, "write", failing)
    with pytest.raises(OSError, match="no space"):
        export.write(old, sources["folded"])
    assert old.read_text() == "old"
    assert os.listdir(tmp_path) == ["m.onnx"]
    monkeypatch.undo()
    export.write(old, sources["folded"])
    assert old.stat().st_size > 5_000_000
    assert os.listdir(tmp_path) == ["m.onnx"]
    with pytest.raises(FileNotFoundError) as caught:
        export.write(tmp_path / "nowhere" / "m.onnx", sources["folded"])
    assert "nowhere/m.onnx" in str(caught.value)
    with pytest.raises(ValueError, match="expected a name ending in"):
        export.write(tmp_path / "m.txt", sources["folded"])


@pytest.mark.slow
def test_the_command_line_converts(sources, tmp_path):
    from click.testing import CliRunner

    from fastmnv2.cli import cli

    def convert(*arguments, code=0):
        done = CliRunner().invoke(cli, ["convert", *map(str, arguments)])
        assert done.exit_code == code, done.output
        return done.output

    export.write(tmp_path / "m.keras", sources["head"])
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")
    convert(tmp_path / "m.keras", tmp_path / "m.safetensors", "--classes", tmp_path / "names.txt")
    assert fastmnv2.load(tmp_path / "m.safetensors").classes == ("one", "two", "three")
    convert(tmp_path / "m.safetensors", tmp_path / "m.onnx")
    convert(tmp_path / "m.safetensors", tmp_path / "plain.safetensors", "--no-head", "--input-range", "-1", "1")
    plain = fastmnv2.load(tmp_path / "plain.safetensors")
    assert not plain.has_head
    assert plain.weights["input_range"] == (-1.0, 1.0)
    assert "--force" in convert(tmp_path / "m.keras", tmp_path / "m.onnx", code=1)
    assert "expected a name ending in" in convert(tmp_path / "m.keras", tmp_path / "m.txt", code=1)


def test_eight_bit_weights_are_exported_as_native_files_only(real_tflite, tmp_path):
    from fastmnv2.weights.resolve import adapted

    source = adapted(real_tflite, precision="int8")
    export.write(tmp_path / "m.safetensors", source)
    pixels = np.random.RandomState(0).randint(0, 256, (2, 96, 96, 3)).astype(np.uint8)
    again = fastmnv2.load(tmp_path / "m.safetensors", precision="int8")
    assert (again.embed(pixels) == fastmnv2.load(real_tflite, precision="int8").embed(pixels)).all()
    with pytest.raises(ValueError, match="8-bit weights"):
        export.write(tmp_path / "m.onnx", source)
    export.write(tmp_path / "m.onnx", adapted(real_tflite))


@pytest.mark.slow
def test_hostile_names_of_classes(sources, tmp_path):
    path = tmp_path / "m.keras"
    export.write(path, sources["head"])
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for text in ("[1, 2, 3]", "{", "[" * 100_000, json.dumps(["a"] * 4), json.dumps("abc")):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in (members | {"classes.json": text.encode()}).items():
                archive.writestr(name, data)
        with pytest.raises(fastmnv2.WeightsError):
            fastmnv2.load(path)
