"""TensorFlow's graphs: the preparation of images, frozen weights, TF-Slim's releases."""

import shutil
import struct
import tarfile

import numpy as np
import pytest
from bombs import field
from makers import write_bundle

import fastmnv2
from fastmnv2.core.network import of
from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import tf_graph
from fastmnv2.weights.resolve import resolve
from fastmnv2.weights.untrained import untrained


def text(number, value):
    return field(number, value.encode())


def attribute(name, value):
    return field(5, text(1, name) + field(2, value))


def node(name, op, *inputs, attributes=b""):
    return text(1, name) + text(2, op) + b"".join(text(3, name) for name in inputs) + attributes


def constant(name, values):
    values = np.asarray(values, np.float32)
    dims = b"".join(field(2, field(1, edge)) for edge in values.shape)
    tensor = field(1, 1) + field(2, dims) + field(4, values.tobytes())
    return node(name, "Const", attributes=attribute("value", field(8, tensor)))


def placeholder(name, size=96, dtype=1):
    dims = b"".join(field(2, field(1, edge)) for edge in ((1 << 64) - 1, size, size, 3))
    return node(
        name, "Placeholder", attributes=attribute("dtype", field(6, dtype)) + attribute("shape", field(7, dims))
    )


def graph(*nodes, functions=b""):
    return b"".join(field(1, each) for each in nodes) + (field(2, functions) if functions else b"")


def function(name, arguments, nodes, returned):
    signature = text(1, name) + b"".join(field(2, text(1, argument)) for argument in arguments) + field(3, text(1, "y"))
    body = b"".join(field(3, each) for each in nodes)
    return field(1, field(1, signature) + body + field(4, text(1, "y") + text(2, returned)))


def called(name, of_function, *inputs):
    return node(name, "StatefulPartitionedCall", *inputs, attributes=attribute("f", field(10, text(1, of_function))))


def saved(message, source="images", size=96):
    """A SavedModel with one graph and one signature."""
    dims = b"".join(field(2, field(1, edge)) for edge in ((1 << 64) - 1, size, size, 3))
    info = text(1, f"{source}:0") + field(2, 1) + field(3, dims)
    signature = field(1, text(1, "x") + field(2, info))
    return field(2, field(2, message) + field(5, text(1, "serving_default") + field(2, signature)))


def convolution(source):
    return node("net/Conv2D", "Conv2D", source, "kernel")


def test_arithmetic_within_functions_is_followed():
    """A graph as Keras exports it: the signature calls a function that calls the model's, which calls the layer's."""
    scale = function("layer", ["x"], [constant("c", 1 / 127.5), node("m", "Mul", "x", "c:output:0")], "m:z:0")
    inner = [
        called("rescaling", "layer", "images"),
        constant("one", -1.0),
        node("add", "AddV2", "rescaling:output:0", "one:output:0"),
        node("size", "Shape", "images"),
        convolution("add:z:0"),
    ]
    model = function("model", ["images", "kernel"], inner, "net/Conv2D:output:0")
    outer = [called("call", "model", "images", "kernel"), node("out", "Identity", "call:output:0")]
    library = scale + model + function("signature", ["images", "kernel"], outer, "out:output:0")
    message = graph(placeholder("images"), called("top", "signature", "images", "kernel"), functions=library)
    found = tf_graph.saved_model(saved(message, size=128))
    assert found.input_range == (-1.0, 1.0)
    assert found.size == (128, 128)
    assert found.input_error == ""


@pytest.mark.parametrize(
    ("op", "number", "expected"),
    [
        ("Mul", 1 / 255, (0.0, 1.0)),
        ("RealDiv", 255, (0.0, 1.0)),
        ("Sub", 127.5, (-127.5, 127.5)),
        ("Mul", 0.07, (0.0, 17.85)),
        ("Mul", [0.5, 0.5, 0.5], (0.0, 127.5)),
    ],
)
def test_ranges(op, number, expected):
    nodes = [placeholder("images"), constant("c", number), node("y", op, "images", "c"), convolution("y")]
    assert tf_graph.saved_model(saved(graph(*nodes))).input_range == pytest.approx(expected)


def test_bytes_that_are_cast_are_pixels_from_0_to_255():
    nodes = [
        placeholder("images", dtype=4),
        node("y", "Cast", "images"),
        constant("c", 1.0),
        node("z", "Mul", "y", "c"),
    ]
    assert tf_graph.saved_model(saved(graph(*nodes, convolution("z")))).input_range == (0.0, 255.0)


def test_the_networks_size_is_that_of_resized_images():
    dims = field(2, field(2, field(1, 2)))
    tensor = field(1, 3) + dims + field(4, np.array([96, 64], np.int32).tobytes())
    size = node("size", "Const", attributes=attribute("value", field(8, tensor)))
    nodes = [placeholder("images", 224), size, node("y", "ResizeBilinear", "images", "size"), convolution("y")]
    assert tf_graph.saved_model(saved(graph(*nodes), size=224)).size == (96, 64)
    nodes[1] = node("size", "Placeholder")  # unknown, so images keep their size
    assert tf_graph.saved_model(saved(graph(*nodes), size=224)).size == (224, 224)


def test_graphs_without_a_range_and_graphs_that_cant_be_run():
    assert tf_graph.saved_model(saved(graph(placeholder("images"), convolution("images")))).input_range is None
    for step in (
        [node("odd", "Tanh", "images")],
        [constant("c", [1.0, 2.0, 3.0]), node("odd", "Mul", "images", "c")],
        [node("odd", "Mul", "images", "variable")],
    ):
        nodes = [placeholder("images"), *step, convolution("odd")]
        assert "odd" in tf_graph.saved_model(saved(graph(*nodes))).input_error
    assert tf_graph.saved_model(b"") == tf_graph.Before()


def test_hostile_graphs_are_refused():
    endless = function("f", ["x"], [called("again", "f", "x")], "again:output:0")
    calls = graph(placeholder("images"), called("top", "f", "images"), functions=endless)
    with pytest.raises(ValueError, match="deeper"):
        tf_graph.saved_model(saved(calls))
    with pytest.raises(ValueError, match="fields"):
        tf_graph.saved_model(saved(field(1, field(1, 1) * 1_100_000)))
    circle = graph(placeholder("images"), node("a", "Identity", "images"), node("b", "Identity", "a", "b"))
    assert tf_graph.saved_model(saved(circle)).input_range is None
    with pytest.raises(ValueError, match="past"):
        tf_graph.saved_model(saved(graph(placeholder("images")))[:-3])


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A frozen graph of a member, as in TF-Slim's releases."""
    network = of(0.35, 128, 128)
    source = untrained(network=network)
    nodes = [constant(name, values) for name, values in source.tensors.items()]
    nodes += [placeholder("input", 128), node("MobilenetV2/Conv/Conv2D", "Conv2D", "input", "MobilenetV2/Conv/weights")]
    path = tmp_path_factory.mktemp("frozen") / "mobilenet_v2_0.35_128_frozen.pb"
    path.write_bytes(graph(*nodes))
    return path, fold(source)


def test_a_frozen_graph(frozen, tmp_path):
    path, folded = frozen
    found = resolve(path)
    assert found.network == folded.network
    assert all((found.tensors[name] == values).all() for name, values in folded.tensors.items())
    data = path.read_bytes()
    for cut in (len(data) // 2, len(data) - 7, 100):
        (tmp_path / "cut.pb").write_bytes(data[:cut])
        with pytest.raises(fastmnv2.WeightsError):
            resolve(tmp_path / "cut.pb")


def test_releases_of_tf_slim(frozen, tmp_path):
    """An archive's checkpoint is preferred to its frozen graph; the image size is in the name."""
    path, folded = frozen
    with tarfile.open(tmp_path / "mobilenet_v2_0.35_128.tgz", "w:gz") as tar:
        tar.add(path, f"./{path.name}")
        tar.addfile(tarfile.TarInfo("./eval.pbtxt"))
    assert fold(resolve_source(tmp_path / "mobilenet_v2_0.35_128.tgz")).network == folded.network


def resolve_source(path):
    from fastmnv2.weights.resolve import resolve_source as read

    return read(path)


def test_a_checkpoints_size_follows_from_its_name_or_from_size(tmp_path):
    network = of(0.5, 160, 160)
    source = untrained(network=network)
    folder = tmp_path / "mobilenet_v2_0.5_160"
    folder.mkdir()
    prefix = write_bundle(folder / "model", source.tensors)
    assert fastmnv2.load(prefix).network == network
    assert fastmnv2.load(folder, size=96).network == of(0.5, 96, 96)
    with tarfile.open(tmp_path / "mobilenet_v2_0.5_160.tgz", "w:gz") as tar:
        tar.add(folder, "mobilenet_v2_0.5_160")
    assert fastmnv2.load(tmp_path / "mobilenet_v2_0.5_160.tgz").network == network
    shutil.move(folder, tmp_path / "mine")
    with pytest.raises(fastmnv2.WeightsError, match="size="):
        fastmnv2.load(tmp_path / "mine")


def test_numbers_are_stored_in_many_ways():
    """TensorProto stores packed floats, one repeated float, integers, or 16-bit values in integers."""

    def read(tensor):
        reader = tf_graph.Reader()
        body = reader.nodes(
            field(1, node("c", "Const", attributes=attribute("value", field(8, tensor)))), 1, tf_graph._Body()
        )
        return reader.constant(body.nodes["c"])

    three = field(2, field(2, field(1, 3)))
    assert read(field(1, 1) + three + field(5, struct.pack("<3f", 1, 2, 3))).tolist() == [1, 2, 3]
    assert read(field(1, 1) + three + field(5, struct.pack("<f", 4))).tolist() == [4, 4, 4]
    assert read(field(1, 3) + three + field(7, (1 << 64) - 1)).tolist() == [-1, -1, -1]
    assert read(field(1, 7) + three + field(8, b"text")) is None
    for kind, bits in ((14, 0xBF80), (19, 0xBC00)):  # -1 in bfloat16 and float16
        assert read(field(1, kind) + three + field(13, bits)).tolist() == [-1, -1, -1]
        assert read(field(1, kind) + three + field(4, struct.pack("<3H", 0, bits, 0))).tolist() == [0, -1, 0]
