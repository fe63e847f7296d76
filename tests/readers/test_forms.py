"""Every form of weights gives the same folded network from the same source."""

import hashlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from makers import archive, converted, legacy_h5, untrained_tflite

import fastmnv2
from fastmnv2.core.network import BATCH_NORM, DEFAULT
from fastmnv2.weights import read
from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import hub
from fastmnv2.weights.untrained import untrained


@pytest.fixture(scope="module")
def variables():
    return untrained().tensors


@pytest.fixture(scope="module")
def folded(variables):
    """The result that every loader must give: folded by the formula in float64 and rounded once."""
    tensors = {}
    for layer in DEFAULT.layers[:-1]:
        gamma, beta, mean, variance = (
            variables[f"{layer.scope}/BatchNorm/{name}"].astype(np.float64) for name in BATCH_NORM
        )
        scale = gamma / np.sqrt(variance + 0.001)
        wide = scale[:, None] if layer.kind == "depthwise" else scale
        tensors[layer.weights_name] = (variables[layer.weights_name] * wide).astype(np.float32)
        tensors[layer.biases_name] = (beta - mean * scale).astype(np.float32)
    for name in (DEFAULT.logits.weights_name, DEFAULT.logits.biases_name):
        tensors[name] = variables[name]
    return tensors


def assert_same(path, want, logits=True):
    got = fold(read(path))
    names = [name for name in want if logits or not name.startswith(DEFAULT.logits.scope)]
    assert list(got.tensors) == names
    for name in names:
        assert got.tensors[name].dtype == np.float32
        assert (got.tensors[name] == want[name]).all(), name
    assert len(got.sha256) == 64
    return got


@pytest.fixture(scope="module")
def module(variables, tmp_path_factory):
    from make_module import make_module

    return make_module(tmp_path_factory.mktemp("hub") / "module", variables)


def test_hub_module_folder(module, folded):
    assert assert_same(module, folded).form == "hub"


@pytest.mark.parametrize("prefix", ["", "./"])
def test_hub_module_archive(module, folded, tmp_path, prefix):
    path = archive(module, tmp_path / "2.tar.gz", prefix)
    got = assert_same(path, folded)
    assert got.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_hub_module_by_url_in_the_cache(module, folded, tmp_path, monkeypatch):
    name = hashlib.sha1(hub.HANDLE.encode()).hexdigest()
    shutil.copytree(module, tmp_path / name)
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    for weights in (hub.HANDLE, None, "imagenet"):
        model = fastmnv2.load(weights)
        assert model.weights["origin"] == hub.HANDLE
        assert model.has_logits
    google = "https://tfhub.dev/google/imagenet"
    with pytest.raises(fastmnv2.WeightsUnavailable, match="mobilenet_v2_100_224 weights are not on this machine"):
        fastmnv2.load(f"{google}/mobilenet_v2_100_224/feature_vector/2")
    with pytest.raises(fastmnv2.WeightsUnavailable, match="TFHUB_CACHE_DIR"):
        fastmnv2.load(f"{google}/inception_v3/feature_vector/3")


def test_checkpoint(variables, folded, tmp_path):
    from make_module import make_checkpoint

    prefix = make_checkpoint(tmp_path / "model.ckpt-7", variables)
    for path in (prefix, tmp_path, tmp_path / "model.ckpt-7.index", tmp_path / "model.ckpt-7.data-00000-of-00001"):
        assert assert_same(path, folded).form == "checkpoint"


def test_checkpoint_prefers_moving_averages(variables, folded, tmp_path):
    from make_module import make_checkpoint

    # In this file the averages hold the real weights, and the raw values differ.
    averages = {name: value for name, value in variables.items() if "moving_" not in name}
    raw = {name: value if "moving_" in name else value + 1 for name, value in variables.items()}
    prefix = make_checkpoint(tmp_path / "model.ckpt", raw, averages)
    got = assert_same(prefix, folded)
    assert any("158 variables are exponential moving averages" in note for note in got.notes)


def test_tf2_saved_model_of_slim_variables(variables, folded, tmp_path):
    import tensorflow as tf

    holder = tf.Module()
    holder.all = [tf.Variable(value, name=name) for name, value in variables.items()]
    tf.saved_model.save(holder, str(tmp_path / "sm"))
    assert_same(tmp_path / "sm", folded)


@pytest.fixture(scope="module")
def network(variables):
    from keras_model import keras_model

    return keras_model(variables)


def old_name(name):
    """Translate today's layer names to those of the official files of 2018."""
    plain = name.replace("expanded_conv_", "block_0_")
    if not plain.startswith("block_"):
        return name
    _, number, part = plain.split("_", 2)
    if part.endswith("_BN"):
        return f"bn{number}_conv_{number}_bn_{part.removesuffix('_BN')}"
    return f"mobl{number}_conv_{number}_{part}"


def test_keras_legacy_h5_in_both_generations(network, folded, tmp_path):
    assert_same(legacy_h5(tmp_path / "new.h5", network), folded, logits=False)
    assert_same(legacy_h5(tmp_path / "plain.h5", network, suffix=""), folded, logits=False)
    assert_same(legacy_h5(tmp_path / "old.h5", network, old_name), folded, logits=False)
    assert_same(legacy_h5(tmp_path / "whole.h5", network, group="model_weights"), folded, logits=False)


@pytest.mark.parametrize("name", ["k.weights.h5", "k.keras", "k.h5", pytest.param("export", marks=pytest.mark.slow)])
def test_keras_own_files(network, folded, tmp_path, name):
    if name == "k.weights.h5":
        network.save_weights(tmp_path / name)
    elif name == "export":
        network.export(tmp_path / name, verbose=False)
    else:
        network.save(tmp_path / name)
    assert_same(tmp_path / name, folded, logits=False)


def test_keras_weights_h5_without_layer_names(network, folded, tmp_path):
    """Early Keras 3 files number the layers of each class and have no names."""
    import h5py

    path = tmp_path / "k.weights.h5"
    network.save_weights(path)
    with h5py.File(path, "r+") as file:
        for layer in file["layers"].values():
            layer["vars"].attrs.pop("name", None)
    assert_same(path, folded, logits=False)


def assert_same_body(model, path, want):
    model.save_weights(path) if path.name.endswith("weights.h5") else model.save(path)
    got = assert_same(path, want, logits=False)
    if path.name.endswith("weights.h5"):
        assert any("own_head" in note for note in got.notes)
    else:
        assert [step.name for step in got.head.steps] == ["own_head"]


@pytest.mark.parametrize("suffix", ["keras", "weights.h5", "h5"])
def test_keras_models_with_a_head(network, folded, tmp_path, suffix):
    import keras

    model = keras.Model(network.input, keras.layers.Dense(5, name="own_head")(network.output))
    assert_same_body(model, tmp_path / f"m.{suffix}", folded)


@pytest.mark.slow
def test_keras_fine_tuned_models(variables, tmp_path):
    import keras
    from keras_model import keras_model

    network = keras_model(variables)
    inputs = keras.Input((96, 96, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = keras.layers.Dense(7, name="own_head")(keras.layers.Dropout(0.2)(network(x)))
    model = keras.Model(inputs, x)
    model.compile("adam", "mse", run_eagerly=True)
    model.train_on_batch(np.zeros((1, 96, 96, 3)), np.zeros((1, 7)))  # moves the weights, makes optimiser state
    network.save_weights(tmp_path / "alone.weights.h5")
    want = fold(read(tmp_path / "alone.weights.h5")).tensors
    for suffix in ("keras", "weights.h5", "h5"):
        assert_same_body(model, tmp_path / f"m.{suffix}", want)


@pytest.mark.slow
def test_keras_with_its_classes(variables, tmp_path, images):
    """Keras has no background class: its 1000 probabilities are our classes 1 to 1000."""
    from keras_model import keras_model

    network = keras_model(variables, top=True)
    network.save_weights(tmp_path / "top.weights.h5")
    model = fastmnv2.load(tmp_path / "top.weights.h5")
    indices, probabilities = model.classify(images, top=1000)
    theirs = network.predict(images * 2 - 1, verbose=0)
    assert (indices > 0).all()
    ours = np.zeros_like(theirs)
    np.put_along_axis(ours, indices - 1, probabilities, axis=1)
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-7)


def test_tflite_float32(folded, tmp_path):
    path = tmp_path / "f32.tflite"
    path.write_bytes(untrained_tflite())
    got = fold(read(path))
    for layer in DEFAULT.layers[:-1]:
        # The converter folds in float32, with three roundings.
        want = folded[layer.weights_name]
        assert np.abs(got.tensors[layer.weights_name] - want).max() <= 4 * 2**-24 * np.abs(want).max(), layer.scope
        bias = folded[layer.biases_name]
        assert np.abs(got.tensors[layer.biases_name] - bias).max() <= 1e-5 * max(1, np.abs(bias).max()), layer.scope


@pytest.mark.slow
def test_tflite_float16(network, tmp_path):
    import tensorflow as tf

    default = [tf.lite.Optimize.DEFAULT]
    half = converted(network, optimizations=default, target_spec__supported_types=[tf.float16])
    (tmp_path / "f32.tflite").write_bytes(untrained_tflite())
    (tmp_path / "f16.tflite").write_bytes(half)
    single, got = read(tmp_path / "f32.tflite"), read(tmp_path / "f16.tflite")
    for name, value in single.tensors.items():
        assert (got.tensors[name] == value.astype(np.float16).astype(np.float32)).all(), name


def interpreter_constants(path):
    """Constants by shape, dequantised with the interpreter's parameters."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_path=str(path))
    found = {}
    for detail in interpreter.get_tensor_details():
        parameters = detail["quantization_parameters"]
        try:
            stored = interpreter.tensor(detail["index"])()
        except ValueError:  # an activation, which has no values yet
            continue
        if stored.dtype == np.float32:
            found.setdefault(stored.shape, []).append(stored)
        if stored.dtype not in (np.int8, np.uint8, np.int32) or not len(parameters["scales"]):
            continue
        shape = [1] * stored.ndim
        if len(parameters["scales"]) > 1:
            shape[parameters["quantized_dimension"]] = -1
        scale = parameters["scales"].astype(np.float64).reshape(shape)
        zero = parameters["zero_points"].astype(np.float64).reshape(shape)
        found.setdefault(stored.shape, []).append(((stored - zero) * scale).astype(np.float32))
    return found


@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("dynamic range", "full int8")), "int8 inputs"]
)
def test_tflite_int8(network, images, tmp_path, kind):
    import tensorflow as tf

    options = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    if kind != "dynamic range":
        options["representative_dataset"] = lambda: ([image[None] * 2 - 1] for image in images)
        options["target_spec__supported_ops"] = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if kind == "int8 inputs":
        options |= {"inference_input_type": tf.int8, "inference_output_type": tf.int8}
    path = tmp_path / "q.tflite"
    path.write_bytes(converted(network, **options))
    got = fold(read(path))
    constants = interpreter_constants(path)
    for layer in DEFAULT.layers[:-1]:
        kernel = got.tensors[layer.weights_name].transpose(3, 0, 1, 2)
        assert any((kernel == other).all() for other in constants[kernel.shape]), layer.scope
        if kind != "dynamic range":
            bias = got.tensors[layer.biases_name]
            assert any((bias == other).all() for other in constants[bias.shape]), layer.scope


def test_tflite_of_google(real_tflite, real_labels, photos):
    """The hosted quantised file gives the classes of NOTICE.md, and every tensor equals the interpreter's."""
    from fastmnv2.image import load_image

    model = fastmnv2.load(real_tflite)
    labels = real_labels.read_text().splitlines()
    want = {
        "bird.bmp": "chickadee",
        "parrot.jpg": "macaw",
        "hot_dog.jpg": "hotdog, hot dog, red hot",
        "chelsea.png": "Egyptian cat",
        "coffee.png": "espresso",
    }
    for name, label in want.items():
        indices, _ = model.classify(load_image(photos / name), top=1)
        assert labels[indices[0]] == label, name
    constants = interpreter_constants(real_tflite)
    tensors = fold(read(real_tflite)).tensors
    for layer in DEFAULT.layers:
        kernel = tensors[layer.weights_name].transpose(3, 0, 1, 2)
        assert any((kernel == other).all() for other in constants[kernel.shape]), layer.scope


def test_tflite_features_are_near_the_interpreters(real_tflite, photos):
    """The cosine between dequantised features and the quantised network's own is at least 0.995."""
    import tensorflow as tf

    from fastmnv2.image import load_image

    model = fastmnv2.load(real_tflite)
    interpreter = tf.lite.Interpreter(model_path=str(real_tflite), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    feature = next(d for d in interpreter.get_tensor_details() if d["name"] == "MobilenetV2/Logits/AvgPool")
    scale, zero = feature["quantization"]
    for path in sorted(photos.iterdir()):
        if path.suffix == ".md":
            continue
        image = np.round(load_image(path) * 255).astype(np.uint8)
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        theirs = (interpreter.get_tensor(feature["index"]).reshape(-1).astype(np.float64) - zero) * scale
        ours = model.embed(image).astype(np.float64)
        cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
        assert cosine >= 0.995, (path.name, cosine)


def test_native_round_trip(folded, module, tmp_path):
    from safetensors.numpy import load_file

    from fastmnv2.weights.forms import native

    path = tmp_path / "n.safetensors"
    source = fold(read(module))
    native.write(path, source)
    got = assert_same(path, folded)
    assert got.form == "native"
    assert got.sha256 == source.sha256
    theirs = load_file(path)  # the library's own reader
    assert set(theirs) == set(folded)
    for name, value in folded.items():
        assert (theirs[name] == value).all()
    assert [entry.name for entry in tmp_path.iterdir()] == ["n.safetensors"]
    assert Path(path).stat().st_mode & 0o044  # permissions follow the umask, unlike a temporary file's


def test_missing_optional_packages_say_what_to_install(network, tmp_path, monkeypatch):
    import sys

    network.save_weights(tmp_path / "k.weights.h5")
    (tmp_path / "f.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match=r"fastmnv2\[keras\]"):
        fastmnv2.load(tmp_path / "k.weights.h5")
    with pytest.raises(ImportError, match=r"fastmnv2\[tflite\]"):
        fastmnv2.load(tmp_path / "f.tflite")


def test_streams_of_bytes_are_refused():
    with pytest.raises(TypeError):
        fastmnv2.load(io.BytesIO(b""))
