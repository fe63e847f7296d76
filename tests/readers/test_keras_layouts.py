"""File layouts of Keras 2 and early Keras 3, and common changes of a model's layers, written by hand."""

import dataclasses
import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from makers import write_bundle

import fastmnv2
from fastmnv2.core.network import BATCH_NORM, DEFAULT, of
from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import hdf5, keras, keras_graph, keras_names
from fastmnv2.weights.forms.keras_names import _keras_name as keras_name
from fastmnv2.weights.resolve import resolve
from fastmnv2.weights.untrained import untrained

h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def source():
    return untrained(seed=3)


@pytest.fixture(scope="module")
def pixels():
    return np.random.RandomState(0).randint(0, 256, (2, 96, 96, 3)).astype(np.uint8)


def kernel_and_bias(inputs=1280, outputs=3):
    random = np.random.RandomState(outputs)
    return random.normal(0, 0.05, (inputs, outputs)).astype(np.float32), random.rand(outputs).astype(np.float32)


def variables(source):
    """(kind of layer, Keras' name, variable, array) in order."""
    for layer in source.network.layers[:-1]:
        kind = "depthwise_conv2d" if layer.kind == "depthwise" else "conv2d"
        yield kind, keras_name(layer, norm=False), "kernel", source.tensors[layer.weights_name]
        for name in BATCH_NORM:
            values = source.tensors[f"{layer.scope}/BatchNorm/{name}"]
            yield "batch_normalization", keras_name(layer, norm=True), name, values


def numbered(file, source, at):
    """Write datasets like ``layers/conv2d_7/vars/0``, without names."""
    counts, places = {}, {}
    for kind, layer, variable, values in variables(source):
        if layer not in places:
            number = counts[kind] = counts.get(kind, -1) + 1
            places[layer] = f"{at}layers/{kind}" + (f"_{number}" if number else "")
        index = BATCH_NORM.index(variable) if variable in BATCH_NORM else 0
        file.create_dataset(f"{places[layer]}/vars/{index}", data=values)


def call(*names):
    return [[[name, 0, 0, {}] for name in names]]


def network_config(source, rename=lambda name: name, size=96):
    """The configuration of a functional model of the network, reduced to the parts that the reader uses."""
    own = {"name": "input_1", "batch_input_shape": [None, size, size, 3]}
    layers = [{"class_name": "InputLayer", "config": own, "inbound_nodes": []}]
    before = "input_1"
    for kind, layer, variable, _ in variables(source):
        if variable in ("kernel", "gamma"):
            config = {"name": rename(layer)} | ({"epsilon": 0.001} if variable == "gamma" else {})
            name = {"conv2d": "Conv2D", "depthwise_conv2d": "DepthwiseConv2D"}.get(kind, "BatchNormalization")
            layers.append({"class_name": name, "config": config, "inbound_nodes": call(before)})
            before = config["name"]
    relu = {"class_name": "ReLU", "config": {"name": "out_relu", "max_value": 6.0}, "inbound_nodes": call(before)}
    ends = {"input_layers": [["input_1", 0, 0]], "output_layers": [["out_relu", 0, 0]]}
    return {"class_name": "Functional", "config": {"name": "network", "layers": [*layers, relu]} | ends}


def layer(kind, name, *inputs, **config):
    return {"class_name": kind, "config": {"name": name} | config, "inbound_nodes": call(*inputs)}


def functional(layers, outputs):
    first = {"class_name": "InputLayer", "config": {"name": "images"}, "inbound_nodes": []}
    ends = {"input_layers": [["images", 0, 0]], "output_layers": [[name, 0, 0] for name in outputs]}
    return {"class_name": "Functional", "config": {"name": "model", "layers": [first, *layers]} | ends}


def test_a_head_with_a_batch_norm_in_keras_2_files(source, pixels, tmp_path):
    """Layers are named only by class and a number, which starts at 0 in every model."""
    kernel, bias = kernel_and_bias()
    scale = np.random.RandomState(1).uniform(0.5, 2, (4, 1280)).astype(np.float32)
    inner = network_config(source) | {"inbound_nodes": call("rescaling")}
    config = functional(
        [
            layer("Rescaling", "rescaling", "images", scale=1 / 127.5, offset=-1.0),
            inner,
            layer("GlobalAveragePooling2D", "pool", "network"),
            layer("BatchNormalization", "batch_normalization", "pool", epsilon=1e-3),
            layer("Dense", "kinds", "batch_normalization", activation="softmax"),
        ],
        ["kinds"],
    )
    file = io.BytesIO()
    with h5py.File(file, "w") as weights:
        numbered(weights, source, "layers/functional/")
        for index, values in enumerate(scale):
            weights.create_dataset(f"layers/batch_normalization/vars/{index}", data=values)
        weights.create_dataset("layers/dense/vars/0", data=kernel)
        weights.create_dataset("layers/dense/vars/1", data=bias)
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", file.getvalue())
    (tmp_path / "m.weights.h5").write_bytes(file.getvalue())
    model, plain = fastmnv2.load(tmp_path / "m.keras"), fastmnv2.load(tmp_path / "m.weights.h5")
    features = model.embed(pixels)
    assert (features == fastmnv2.Model(fold(source)).embed(pixels)).all()
    assert (plain.embed(pixels) == features).all()
    x = (features.astype(np.float64) - scale[2]) / np.sqrt(scale[3] + 1e-3) * scale[0] + scale[1]
    powers = np.exp(x @ kernel + bias)
    np.testing.assert_allclose(model.predict(pixels), powers / powers.sum(axis=1, keepdims=True), rtol=1e-4)


def legacy(path, source, rename, config=None, others=None):
    """Write datasets like ``/<layer>/<layer>/kernel:0``."""
    with h5py.File(path, "w") as file:
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
        for kind, name, variable, values in variables(source):
            plain = f"{'depthwise_' if kind == 'depthwise_conv2d' else ''}{variable}"
            file.create_dataset(f"{rename(name)}/{rename(name)}/{plain}:0", data=values)
        for name, values in (others or {}).items():
            file.create_dataset(name, data=values)
    return path


def test_layers_with_a_prefix(source, tmp_path):
    path = legacy(tmp_path / "m.h5", source, lambda name: f"left_{name}", network_config(source, "left_{}".format))
    found = resolve(path)
    assert all((fold(source).tensors[name] == values).all() for name, values in found.tensors.items())
    with h5py.File(path, "a") as file:
        for kind, name, variable, values in variables(source):
            plain = f"{'depthwise_' if kind == 'depthwise_conv2d' else ''}{variable}"
            file.create_dataset(f"right_{name}/right_{name}/{plain}:0", data=values)
    with pytest.raises(fastmnv2.WeightsError, match="2 networks, with layers named by 'left_', 'right_'"):
        resolve(path)


def test_layers_named_by_class_and_number(tmp_path):
    """Layers in files without names, where numbers start anywhere, are recognised by their order."""
    source = untrained(network=of(0.35, 128, 128))
    found, counts = {}, {"conv2d": 35, "depthwise_conv2d": 17, "batch_normalization": 52}
    for kind, name, _, _ in variables(source):
        if name not in found:
            found[name] = f"{kind}_{counts[kind]}"
            counts[kind] += 1
    rename = found.__getitem__
    kernel, bias = kernel_and_bias(outputs=5)
    config = network_config(source, rename, size=128)
    config["config"]["layers"] += [
        layer("GlobalAveragePooling2D", "pool", "out_relu"),
        layer("Dense", "dense_3", "pool", activation="softmax"),
    ]
    config["config"]["output_layers"] = [["dense_3", 0, 0]]
    others = {"dense_3/dense_3/kernel:0": kernel, "dense_3/dense_3/bias:0": bias}
    model = fastmnv2.load(legacy(tmp_path / "m.h5", source, rename, config, others))
    assert model.network == source.network
    assert model.weights["head"] == ["dense_3", "dense_3"]
    images = np.zeros((1, 128, 128, 3), np.uint8)
    assert (model.embed(images) == fastmnv2.Model(fold(source)).embed(images)).all()


def test_teachable_machine(tmp_path):
    """Sequential models within a Sequential one, a head without bias, and labels.txt next to the file."""
    source = untrained(network=of(0.35, 224, 224))
    (hidden, bias), (kernel, _) = kernel_and_bias(outputs=100), kernel_and_bias(100, 2)
    body = [network_config(source, size=224), layer("GlobalAveragePooling2D", "global_average_pooling2d_GlobalAverage")]
    head = [
        layer("Dense", "dense_Dense1", activation="relu"),
        layer("Dense", "dense_Dense2", activation="softmax", use_bias=False),
    ]
    parts = [
        {"class_name": "Sequential", "config": {"name": name, "layers": layers}}
        for name, layers in (("sequential_1", body), ("sequential_3", head))
    ]
    config = {"class_name": "Sequential", "config": {"name": "sequential_4", "layers": parts}}
    others = {
        "model_weights/sequential_3/dense_Dense1/kernel:0": hidden,
        "model_weights/sequential_3/dense_Dense1/bias:0": bias,
        "model_weights/sequential_3/dense_Dense2/kernel:0": kernel,
    }
    path = legacy(tmp_path / "keras_model.h5", source, lambda name: name, config, others)
    (tmp_path / "labels.txt").write_text("0 mug\n1 no mug\n")
    model = fastmnv2.load(path)
    assert model.network.name == "mobilenet_v2_035_224"
    assert model.weights["input_range"] == (-1.0, 1.0)
    assert model.classes == ("mug", "no mug")
    images = np.random.RandomState(0).randint(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    scores = np.maximum(model.embed(images).astype(np.float64) @ hidden + bias, 0) @ kernel
    powers = np.exp(scores)
    np.testing.assert_allclose(model.predict(images), powers / powers.sum(axis=1, keepdims=True), rtol=1e-4)


def shortened(values):
    """Floats without the bits that bfloat16 has no room for."""
    return (np.ascontiguousarray(values).view(np.uint32) & 0xFFFF0000).view(np.float32)


def test_bfloat16_variables(source, tmp_path):
    """HDF5 has no bfloat16, so h5py returns two opaque bytes."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for kind, name, variable, values in variables(source):
            half = (values.view(np.uint32) >> 16).astype("<u2").view("V2")
            plain = f"{'depthwise_' if kind == 'depthwise_conv2d' else ''}{variable}"
            file.create_dataset(f"{name}/{name}/{plain}:0", data=half)
    found = fastmnv2.load(tmp_path / "m.h5")
    wanted = source.tensors["MobilenetV2/Conv/weights"]
    with h5py.File(tmp_path / "m.h5") as file:
        assert file["Conv1/Conv1/kernel:0"].dtype.str == "|V2"
    assert found.network == DEFAULT
    assert np.abs(found.embed(np.zeros((1, 96, 96, 3), np.uint8))).max() > 0
    assert wanted.dtype == np.float32


def siamese(source, scale_of_second):
    inner = network_config(source)
    inner["inbound_nodes"] = [*call("a"), *call("b")]
    layers = [
        {"class_name": "InputLayer", "config": {"name": "second"}, "inbound_nodes": []},
        layer("Rescaling", "a", "images", scale=1 / 127.5, offset=-1.0),
        layer("Rescaling", "b", "second", scale=scale_of_second, offset=-1.0),
        inner,
        layer("GlobalAveragePooling2D", "pool", "network"),
        layer("Subtract", "difference", "pool", "pool"),
    ]
    return functional(layers, ["difference"])


def test_siamese_models_have_features(source, pixels, tmp_path):
    path = legacy(tmp_path / "m.h5", source, lambda name: name, siamese(source, 1 / 127.5))
    with pytest.raises(fastmnv2.WeightsError, match=r"difference \(Subtract\).*head=False"):
        fastmnv2.load(path)
    model = fastmnv2.load(path, head=False)
    assert model.weights["input_range"] == (-1.0, 1.0)
    assert (model.embed(pixels) == fastmnv2.Model(fold(source)).embed(pixels)).all()
    path = legacy(tmp_path / "n.h5", source, lambda name: name, siamese(source, 1 / 255))
    with pytest.raises(fastmnv2.WeightsError, match="2 ways"):
        fastmnv2.load(path, head=False)


@pytest.mark.parametrize("kind", ["Flatten", "GlobalMaxPooling2D"])
def test_errors_about_the_last_map_suggest_head_false(source, pixels, tmp_path, kind):
    inner = network_config(source) | {"inbound_nodes": call("images")}
    config = functional([inner, layer(kind, "odd_pool", "network")], ["odd_pool"])
    path = legacy(tmp_path / "m.h5", source, lambda name: name, config)
    with pytest.raises(fastmnv2.WeightsError, match=r"odd_pool.*head=False"):
        fastmnv2.load(path)
    assert fastmnv2.load(path, head=False).embed(pixels).shape == (2, 1280)
    # For a map of one pixel, these layers equal the average.
    inner = network_config(source, size=32) | {"inbound_nodes": call("images")}
    config = functional([inner, layer(kind, "odd_pool", "network"), layer("Dense", "kinds", "odd_pool")], ["kinds"])
    kernel, bias = kernel_and_bias()
    others = {"kinds/kinds/kernel:0": kernel, "kinds/kinds/bias:0": bias}
    model = fastmnv2.load(legacy(tmp_path / "n.h5", source, lambda name: name, config, others))
    features = model.embed(pixels[:, :32, :32])
    np.testing.assert_allclose(model.predict(pixels[:, :32, :32]), features @ kernel + bias, rtol=1e-4, atol=1e-4)


def test_unit_normalization_is_run(source, pixels, tmp_path):
    inner = network_config(source) | {"inbound_nodes": call("images")}
    layers = [
        inner,
        layer("GlobalAveragePooling2D", "pool", "network"),
        layer("UnitNormalization", "unit", "pool", axis=-1),
    ]
    path = legacy(tmp_path / "m.h5", source, lambda name: name, functional(layers, ["unit"]))
    model = fastmnv2.load(path)
    np.testing.assert_allclose(model.predict(pixels), model.embed(pixels, normalize=True), rtol=1e-6, atol=1e-8)
    assert (model.predict(pixels[1]) == model.predict(pixels)[1]).all()


def test_a_rescaling_sets_the_input_range(source, tmp_path):
    """A Rescaling by a factor below 1 is for pixels in [0,255]."""
    for scale, offset, expected in (
        (0.07, 0.0, (0, 17.85)),
        (0.5, -3, (-3, 124.5)),
        (2.0, -1.0, (-1, 1)),
        (-0.1, 1, (1, -24.5)),
        ([1 / 255] * 3, [-0.5] * 3, (-0.5, 0.5)),
    ):
        inner = network_config(source) | {"inbound_nodes": call("r")}
        config = functional([layer("Rescaling", "r", "images", scale=scale, offset=offset), inner], ["network"])
        found = keras_graph.around(config, None)
        assert found.input_range == pytest.approx(expected)
    norm = layer("Normalization", "r", "images", mean=[127.5] * 3, variance=127.5**2)
    inner = network_config(source) | {"inbound_nodes": call("r")}
    assert keras_graph.around(functional([norm, inner], ["network"]), None).input_range == (-1, 1)
    for odd in ({"mean": [0, 0, 1], "variance": 1}, {"mean": None, "variance": None}):
        norm = layer("Normalization", "r", "images", **odd)
        found = keras_graph.around(functional([norm, inner], ["network"]), None)
        assert "r (Normalization)" in found.input_error
        assert "pass input_range=" in found.input_error
    ours = layer("Rescaling", keras_graph.UNIT_RESCALING, "images", scale=0.5, offset=0.0)
    inner = network_config(source) | {"inbound_nodes": call(keras_graph.UNIT_RESCALING)}
    assert keras_graph.around(functional([ours, inner], ["network"]), None).input_range == (0.0, 0.5)


def changed(config, name, **how):
    (found,) = [own["config"] for own in config["config"]["layers"] if own["config"]["name"] == name]
    found.update(how)
    return config


def around_of(source, *behind, **relu):
    inner = changed(network_config(source), "out_relu", **relu) | {"inbound_nodes": call("images")}
    return keras_graph.around(functional([inner, *behind], [behind[-1]["config"]["name"]]), None)


def test_what_takes_the_last_map_before_its_relu6(source):
    """Such a head would get other numbers than the features."""
    pool, dense = layer("GlobalAveragePooling2D", "pool", "network"), layer("Dense", "kinds", "pool")
    assert not around_of(source, pool, dense).head_error
    for relu in ({"max_value": None}, {"max_value": 4.0}, {"negative_slope": 0.1}, {"threshold": 1.0}):
        assert (
            "out_relu (ReLU) takes the output of Conv_1_bn; expected ReLU6"
            in around_of(source, pool, dense, **relu).head_error
        )
    config = network_config(source)
    own = config["config"]
    own["layers"][-1:] = [layer("GlobalAveragePooling2D", "pool", "Conv_1_bn"), dense]
    own["output_layers"] = [["kinds", 0, 0]]
    assert "pool (GlobalAveragePooling2D) takes" in keras_graph.around(config, None).head_error


def test_a_reshape_that_makes_each_feature_a_row_is_refused(source):
    pool, dense = layer("GlobalAveragePooling2D", "pool", "network"), layer("Dense", "kinds", "rows")
    for shape, fits in (([1280], True), ([1, 1, 1280], True), ([1280, 1], False), ([1280, 1, 1], False)):
        found = around_of(source, pool, layer("Reshape", "rows", "pool", target_shape=shape), dense)
        assert bool(found.head_error) != fits


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("bn_Conv1", {"epsilon": 1e-5}),
        ("block_13_depthwise", {"strides": [1, 1]}),
        ("block_14_depthwise", {"dilation_rate": [2, 2]}),
    ],
)
def test_networks_that_compute_something_else_are_refused(source, tmp_path, name, how):
    config = changed(network_config(source), name, **how)
    config["config"]["layers"].append(layer("Conv2D", "block_99_expand", "out_relu"))  # belongs to no network
    path = legacy(tmp_path / "m.h5", source, lambda name: name, config)
    with pytest.raises(fastmnv2.WeightsError, match=f"{name}: expected {next(iter(how))}"):
        fastmnv2.load(path, head=False)


def test_closed_streams_and_odd_entries_of_the_path(source, tmp_path):
    """The child process that reads HDF5 has standard streams where this process may have other files."""
    path = legacy(tmp_path / "m.h5", source, lambda name: name)
    program = """
import os, pathlib, sys
os.closerange(0, 3)
sys.path += [None, b"bytes", pathlib.Path("path")]
import fastmnv2
open(sys.argv[2], "w").write(fastmnv2.load(sys.argv[1]).weights["form"])
"""
    subprocess.run([sys.executable, "-c", program, path, tmp_path / "form"], timeout=120, check=True)
    assert (tmp_path / "form").read_text() == "keras"


def test_layers_of_two_models_with_one_name(source, tmp_path):
    """Neither is mistaken for the other."""
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for number, model in enumerate(("first", "second")):
            variables_of = file.create_group(f"layers/{model}/layers/dense/vars")
            variables_of.attrs["name"] = "dense"
            variables_of["0"] = np.full((4, 4), number, np.float32)
    with (tmp_path / "m.weights.h5").open("rb") as file:
        others = hdf5.collect(file).others
    assert sorted(values[0, 0] for values in others.values()) == [0, 1]
    assert keras._variables_of("dense", others) == {}
    places = {"layers/first/layers/dense", "layers/second/layers/dense"}
    nameless = {f"{place}/0": np.zeros((4, 4), np.float32) for place in places}
    assert keras._variables_of("dense", nameless, places) == {}
    assert list(keras._variables_of("dense", {"layers/first/layers/dense/0": nameless.popitem()[1]}, places)) == ["0"]
    with h5py.File(tmp_path / "n.weights.h5", "w") as file:
        numbered(file, source, "layers/functional/")
        numbered(file, untrained(seed=4), "layers/functional_1/")
    with pytest.raises(fastmnv2.WeightsError, match=r"a second tensor for .*; expected one MobileNetV2"):
        fastmnv2.load(tmp_path / "n.weights.h5")


def test_paths_of_layers_without_names():
    """Number layers like Keras' own ``_save_container_state``."""
    layers = [layer("Dense", "a"), layer("Dense", "b"), layer("fastmnv2>MyOwnLayer", "c"), layer("Conv2D", "d")]
    inner = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    config = {"class_name": "Functional", "config": {"layers": [layer("Dense", "e"), inner]}}
    assert keras_names.saved_paths(config) == {
        "layers/dense": "e", "layers/sequential": "s", "layers/sequential/layers/dense": "a",
        "layers/sequential/layers/dense_1": "b", "layers/sequential/layers/my_own_layer": "c",
        "layers/sequential/layers/conv2d": "d",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [1, 2, 14, 19])
def test_save_weights_in_tensorflows_format(source, pixels, tmp_path, dtype):
    """Keras 2's ``save_weights`` writes a bundle with an object graph that holds the variables' names."""
    arrays, names = {}, {}
    for number, (kind, layer_name, variable, values) in enumerate(variables(source)):
        plain = f"{'depthwise_' if kind == 'depthwise_conv2d' else ''}{variable}"
        key = f"layer_with_weights-{number:03d}/{plain}/.ATTRIBUTES/VARIABLE_VALUE"
        arrays[key], names[key] = values, f"{layer_name}/{plain}"
    write_bundle(tmp_path / "cp.ckpt", arrays, names, dtype)
    model = fastmnv2.load(tmp_path / "cp.ckpt")
    stored = {1: lambda x: x, 2: lambda x: x, 14: shortened, 19: lambda x: x.astype(np.float16).astype(np.float32)}[
        dtype
    ]
    wanted = dataclasses.replace(source, tensors={name: stored(array) for name, array in source.tensors.items()})
    assert (model.embed(pixels) == fastmnv2.Model(fold(wanted)).embed(pixels)).all()
