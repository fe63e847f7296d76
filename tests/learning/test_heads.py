"""Heads of Keras files: layers after the pooling."""

import json
import zipfile

import numpy as np
import pytest
from keras_model import keras_model, keras_output, near, randomised, saved, whole

import fastmnv2
from fastmnv2.weights.untrained import untrained


def heads():
    """Layers after the pooled features, by the case they test."""
    from keras import layers

    return {
        "softmax": [layers.Dropout(0.5), layers.Dense(7, activation="softmax", name="own_head")],
        "two outputs of sigmoid": [layers.Dense(2, activation="sigmoid")],
        "one logit": [layers.Dense(1)],
        "deep": [
            layers.BatchNormalization(),
            layers.Dense(64, use_bias=False),
            layers.BatchNormalization(center=False),
            layers.Activation("relu"),
            layers.Dropout(0.1),
            layers.Dense(33, activation="relu"),
            layers.Flatten(),
            layers.Dense(5),
            layers.Softmax(),
        ],
        "relu first": [layers.ReLU(), layers.BatchNormalization(scale=False), layers.Dense(40, activation="relu6")],
        "norm only": [layers.BatchNormalization()],
        "unit length": [layers.Dense(12), layers.UnitNormalization()],
    }


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("softmax", "keras"),
        pytest.param("softmax", "h5", marks=pytest.mark.slow),
        ("two outputs of sigmoid", "memory"),
        ("one logit", "h5"),
        pytest.param("deep", "keras", marks=pytest.mark.slow),
        ("deep", "h5"),
        pytest.param("relu first", "keras", marks=pytest.mark.slow),
        ("norm only", "memory"),
        ("unit length", "h5"),
    ],
)
def test_a_head_is_run(network, pixels, tmp_path, kind, suffix):
    model = whole(network, heads()[kind])
    theirs = keras_output(model, pixels / np.float32(127.5) - 1)
    ours = fastmnv2.load(model if suffix == "memory" else saved(model, tmp_path / f"m.{suffix}"))
    assert ours.has_head
    near(ours.predict(pixels), theirs)
    assert (ours.predict(pixels[2]) == ours.predict(pixels)[2]).all()
    for n in (1, 2, 7, 8, 9, 11):  # the same bits in any batch
        assert (ours.predict(pixels[-n:]) == ours.predict(pixels)[-n:]).all()


@pytest.mark.slow
def test_heads_in_sequential_and_nested_models(network, pixels, tmp_path):
    """The most common scripts: augmentation in its own model, preprocess_input, a base without pooling."""
    import keras
    from keras import layers
    from keras.applications.mobilenet_v2 import preprocess_input

    base = keras.Model(network.input, network.get_layer("out_relu").output, name="base")
    augment = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.2)], name="augment")
    inputs = keras.Input((96, 96, 3))
    x = layers.GlobalAveragePooling2D()(base(preprocess_input(augment(inputs)), training=False))
    head = keras.Sequential([layers.Dropout(0.2), layers.Dense(3)], name="top")
    tutorial = keras.Model(inputs, head(x))
    randomised(head)
    sequential = randomised(
        keras.Sequential(
            [
                keras.Input((96, 96, 3)),
                layers.Rescaling(1 / 127.5, offset=-1),
                base,
                layers.GlobalAveragePooling2D(),
                layers.Dense(4, activation="softmax"),
            ]
        )
    )
    flat = randomised(keras.Model(network.input, layers.Dense(6)(network.output)))
    for number, (model, scale) in enumerate([(tutorial, False), (sequential, False), (flat, True)]):
        theirs = keras_output(model, pixels / np.float32(127.5) - 1 if scale else pixels.astype(np.float32))
        for suffix in ("keras", "h5"):
            ours = fastmnv2.load(saved(model, tmp_path / f"{number}.{suffix}"))
            near(ours.predict(pixels), theirs)
            assert ours.weights["input_range"] == (-1.0, 1.0)


def test_heads_of_keras_2(network, pixels, tmp_path):
    """A model_config as written by TensorFlow 2.15: inbound nodes in lists, arithmetic as TFOpLambda."""
    import h5py
    from keras import layers

    model = whole(network, [layers.Dense(4, activation="softmax", name="own_head")])
    path = saved(model, tmp_path / "m.h5")
    layer = {"name": "own_head", "units": 4, "activation": "softmax", "use_bias": True}
    config = {
        "name": "model",
        "layers": [
            {"class_name": "InputLayer", "config": {"name": "input_2"}, "name": "input_2", "inbound_nodes": []},
            {
                "class_name": "TFOpLambda",
                "config": {"name": "tf.math.truediv", "function": "math.truediv"},
                "name": "tf.math.truediv",
                "inbound_nodes": [["input_2", 0, 0, {"y": 255.0, "name": None}]],
            },
            {
                "class_name": "Functional",
                "name": "base",
                "config": {
                    "name": "base",
                    "layers": [
                        {"class_name": "InputLayer", "config": {"name": "input_1"}, "inbound_nodes": []},
                        {
                            "class_name": "Conv2D",
                            "config": {"name": "Conv1"},
                            "inbound_nodes": [[["input_1", 0, 0, {}]]],
                        },
                        {
                            "class_name": "BatchNormalization",
                            "config": {"name": "Conv_1_bn", "epsilon": 0.001},
                            "inbound_nodes": [[["Conv1", 0, 0, {}]]],
                        },
                        {
                            "class_name": "ReLU",
                            "config": {"name": "out_relu", "max_value": 6.0},
                            "inbound_nodes": [[["Conv_1_bn", 0, 0, {}]]],
                        },
                        {
                            "class_name": "GlobalAveragePooling2D",
                            "config": {"name": "pool"},
                            "inbound_nodes": [[["out_relu", 0, 0, {}]]],
                        },
                    ],
                    "input_layers": [["input_1", 0, 0]],
                    "output_layers": [["pool", 0, 0]],
                },
                "inbound_nodes": [[["tf.math.truediv", 0, 0, {"training": False}]]],
            },
            {"class_name": "Dense", "config": layer, "name": "own_head", "inbound_nodes": [[["base", 0, 0, {}]]]},
        ],
        "input_layers": [["input_2", 0, 0]],
        "output_layers": [["own_head", 0, 0]],
    }
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": config})
    ours = fastmnv2.load(path)
    assert ours.weights["input_range"] == (0.0, 1.0)
    near(ours.predict(pixels), keras_output(model, pixels / np.float32(255)))


def refused():
    import keras
    from keras import layers

    def two(x):
        return keras.layers.Concatenate(name="both")([layers.Dense(2)(x), layers.Dense(3)(x)])

    return {
        "tanh_layer": [layers.Dense(3, activation="tanh", name="tanh_layer")],
        "normed": [layers.LayerNormalization(name="normed"), layers.Dense(3)],
        "leaky": [layers.Dense(3), layers.LeakyReLU(name="leaky")],
        "global_average_pooling2d|goes to more": [two],
    }


@pytest.mark.parametrize(
    "name",
    [
        "tanh_layer",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("normed", "leaky")),
        "global_average_pooling2d|goes to more",
    ],
)
@pytest.mark.parametrize("suffix", ["h5"])
def test_what_cant_be_run_is_an_error_that_names_the_layer(network, pixels, tmp_path, name, suffix):
    path = saved(whole(network, refused()[name]), tmp_path / f"m.{suffix}")
    with pytest.raises(fastmnv2.WeightsError, match=name):
        fastmnv2.load(path)
    features = fastmnv2.load(path, head=False)
    assert not features.has_head
    near(features.embed(pixels), keras_output(network, pixels / np.float32(127.5) - 1))
    with pytest.raises(fastmnv2.WeightsError, match="logits"):
        features.predict(pixels)


def test_weights_without_a_graph_have_no_head(network, tmp_path):
    """A file with only names and arrays does not describe a head's layers, and a note reports that."""
    from keras import layers

    model = whole(network, [layers.Dense(7, name="own_head")])
    model.save_weights(tmp_path / "m.weights.h5")
    ours = fastmnv2.load(tmp_path / "m.weights.h5")
    assert not ours.has_head
    assert any("own_head" in note and "no graph" in note for note in ours.weights["notes"])


def test_classes_are_named(network, pixels, tmp_path):
    from keras import layers

    source = whole(network, [layers.Dense(3, activation="softmax")])
    model = fastmnv2.load(saved(source, tmp_path / "m.keras"), classes=["cat", "dog", "fox"])
    assert model.classes == ("cat", "dog", "fox")
    assert fastmnv2.load(source).classes is None
    indices, probabilities = model.classify(pixels)
    assert indices.shape == (len(pixels), 3)
    predicted = model.predict(pixels)
    assert (indices[:, 0] == predicted.argmax(1)).all()
    assert (probabilities == np.take_along_axis(predicted, indices, 1)).all()
    with pytest.raises(ValueError, match="expected an int from 1 to 3, got 4"):
        model.classify(pixels, top=4)
    for wrong in (["cat"], ["a", "b", "c", "d"]):
        with pytest.raises(fastmnv2.WeightsError, match="expected 3 names"):
            fastmnv2.load(source, classes=wrong)
    with pytest.raises(TypeError, match="classes"):
        fastmnv2.load(source, classes="cat")
    with pytest.raises(fastmnv2.WeightsError, match="have no head"):
        fastmnv2.load("untrained", classes=["cat"])


def test_one_output_gives_two_classes(network, pixels, tmp_path):
    from keras import layers

    logit = whole(network, [layers.Dense(1)])
    model = fastmnv2.load(logit, classes=["cat", "dog"])
    second = 1 / (1 + np.exp(-model.predict(pixels)[:, 0].astype(np.float64)))
    indices, probabilities = model.classify(pixels, top=1)
    assert (indices[:, 0] == (second > 0.5)).all()
    np.testing.assert_allclose(probabilities[:, 0], np.maximum(second, 1 - second), rtol=1e-6)


@pytest.mark.parametrize("suffix", ["keras", pytest.param("h5", marks=pytest.mark.slow)])
def test_imagenets_own_classes_stay_logits(pixels, tmp_path, suffix):
    model = keras_model(untrained(seed=5).tensors, top=True)
    ours = fastmnv2.load(saved(model, tmp_path / f"m.{suffix}"))
    assert ours.has_logits
    assert not ours.has_head
    assert ours.logits(pixels).shape == (len(pixels), 1001)
    near(ours.predict(pixels), keras_output(model, pixels / np.float32(127.5) - 1), 1e-4)


def test_native_files_keep_head_classes_and_range(network, pixels, tmp_path):
    from keras import layers
    from safetensors import safe_open

    from fastmnv2.weights.forms import native
    from fastmnv2.weights.resolve import resolve

    model = whole(network, heads()["deep"], [layers.Rescaling(1 / 255)])
    source = saved(model, tmp_path / "m.keras")
    names = ["caf\u00e9", "b", "c", "d", "e"]
    native.write(tmp_path / "m.safetensors", resolve(source, classes=names))
    ours, again = fastmnv2.load(source), fastmnv2.load(tmp_path / "m.safetensors")
    assert (again.predict(pixels) == ours.predict(pixels)).all()
    assert (again.embed(pixels) == ours.embed(pixels)).all()
    assert again.classes == tuple(names)
    assert again.weights["input_range"] == (0.0, 1.0)
    assert fastmnv2.info(tmp_path / "m.safetensors")["weights"]["input_range"] == (0.0, 1.0)
    with safe_open(tmp_path / "m.safetensors", "numpy") as file:  # the library's own reader
        assert file.metadata()["format_version"] == "2"
        assert file.get_tensor("head/1/kernel").shape == (1280, 64)
    native.write(tmp_path / "plain.safetensors", resolve("untrained"))
    with safe_open(tmp_path / "plain.safetensors", "numpy") as file:
        assert file.metadata()["format_version"] == "1"


def test_layers_in_memory_whose_kernel_is_not_their_weights(network, pixels):
    """With LoRA the variable is only a part of the kernel; in a quantised layer it holds integers."""
    from keras import layers

    dense = layers.Dense(3, name="own")
    model = randomised(whole(network, [dense]))
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(np.ones((2, 3)))
    images = pixels / np.float32(127.5) - 1
    near(fastmnv2.load(model).predict(pixels), keras_output(model, images))
    model = randomised(whole(network, [layers.Dense(3, name="own")]))
    model.get_layer("own").quantize("int8")
    with pytest.raises(fastmnv2.WeightsError, match=r"own \(Dense\): expected one kernel"):
        fastmnv2.load(model)
    assert fastmnv2.load(model, head=False).embed(pixels[:1]).shape == (1, 1280)


@pytest.mark.slow
def test_hostile_graphs(network, tmp_path):
    """Cycles, missing layers and endlessly nested models quickly give an error or no head."""
    from keras import layers

    path = saved(whole(network, [layers.Dense(3, name="own_head")]), tmp_path / "m.keras")
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        weights = archive.read("model.weights.h5")

    def rewritten(change):
        changed = json.loads(json.dumps(config))
        change(changed["config"]["layers"], changed)
        target = tmp_path / "changed.keras"
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("config.json", json.dumps(changed))
            archive.writestr("model.weights.h5", weights)
        return target

    def history(layer):
        return layer["inbound_nodes"][0]["args"][0]["config"]["keras_history"]

    def circle(entries, _):
        entries[-2]["class_name"] = "Dropout"
        history(entries[-2])[0] = entries[-1]["config"]["name"]

    def nowhere(entries, _):
        history(entries[1])[0] = "missing"

    def strange(entries, _):
        entries[-1]["inbound_nodes"] = [{"args": [{"class_name": "__keras_tensor__", "config": None}]}]

    def deep(_, whole_config):
        inner = whole_config["config"]["layers"]
        for _ in range(30):
            inner.append({"class_name": "Functional", "config": {"name": "x", "layers": []}})
            inner = inner[-1]["config"]["layers"]

    def many(entries, _):
        entries += [{"class_name": "Dense", "config": {"name": f"d{i}"}} for i in range(3000)]

    def no_units(entries, _):
        entries[-1]["config"] = {"name": "own_head"}

    def odd_activation(entries, _):
        entries[-1]["config"]["activation"] = {"class_name": ["x"], "config": {"a": 1}}

    for change in (circle, nowhere, strange, deep, many, no_units, odd_activation):
        if change in (strange, no_units):
            assert fastmnv2.load(rewritten(change)).embed(np.zeros((1, 96, 96, 3), np.uint8)).shape == (1, 1280)
        else:
            with pytest.raises(fastmnv2.WeightsError):
                fastmnv2.load(rewritten(change))
