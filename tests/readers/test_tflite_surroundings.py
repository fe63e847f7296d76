"""Layers before and after the network in TFLite files run or are reported, and never prevent reading the features."""

from dataclasses import replace

import numpy as np
import pytest
from tflite_files import FloatMaker

import fastmnv2
from fastmnv2.core.head import sigmoid, softmax
from fastmnv2.weights.fold import fold
from fastmnv2.weights.untrained import untrained

pytest.importorskip("ai_edge_litert")

RELU = 1


@pytest.fixture(scope="module")
def folded():
    return fold(untrained())


@pytest.fixture(scope="module")
def pixels():
    return np.random.RandomState(0).randint(0, 256, (3, 96, 96, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def features(folded, pixels):
    from fastmnv2.core.model import Model

    return Model(folded).embed(pixels)


def weights(*shape):
    return np.random.RandomState(sum(shape)).normal(0, 0.05, shape).astype(np.float32)


def near(got, want):
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


def written(path, folded, labels=None, **parts):
    path.write_bytes(FloatMaker(folded, **parts).data(labels))
    return path


def test_two_dense_layers_and_labels(folded, pixels, features, tmp_path):
    a, b, bias = weights(1280, 100), weights(100, 3), weights(3)

    def after(maker, pooled):
        hidden = maker.dense(pooled, a, None, "hidden", RELU)
        return [maker.softmax(maker.dense(hidden, b, bias, "kinds"), 3)]

    model = fastmnv2.load(written(tmp_path / "m.tflite", folded, ["cat", "dog", "fox"], after=after))
    assert (model.embed(pixels) == features).all()
    near(model.predict(pixels), softmax(np.maximum(features @ a, 0).astype(np.float64) @ b + bias).astype(np.float32))
    assert model.classes == ("cat", "dog", "fox")
    assert model.weights["head"][0] == "hidden"


def test_labels_of_another_number_are_ignored_with_a_note(folded, tmp_path):
    def after(maker, pooled):
        return [maker.softmax(maker.dense(pooled, weights(1280, 3), weights(3), "kinds"), 3)]

    model = fastmnv2.load(written(tmp_path / "m.tflite", folded, ["cat", "dog"], after=after))
    assert model.classes is None
    assert "2 labels are ignored" in " ".join(model.weights["notes"])
    (tmp_path / "labels.txt").write_text("0 cat\n1 dog\n2 fox\n")  # next to the file, as Teachable Machine does
    assert fastmnv2.load(tmp_path / "m.tflite").classes == ("cat", "dog", "fox")


def test_only_the_average_of_the_whole_last_map(folded, pixels, features, tmp_path):
    whole = fastmnv2.load(written(tmp_path / "a.tflite", folded, pool="AVERAGE_POOL_2D", window=(3, 3)))
    assert (whole.embed(pixels) == features).all()
    for parts in ({"pool": "AVERAGE_POOL_2D", "window": (2, 3)}, {"pool": "RESHAPE"}):
        path = written(tmp_path / "b.tflite", folded, **parts)
        with pytest.raises(fastmnv2.WeightsError, match="takes the last map, but only its average"):
            fastmnv2.load(path)
    small = replace(folded, size=(32, 32))
    one = fastmnv2.load(written(tmp_path / "c.tflite", small, pool="RESHAPE"))  # a map of one pixel
    assert (one.embed(pixels[:, :32, :32]) == fastmnv2.Model(small).embed(pixels[:, :32, :32])).all()


def test_sigmoid_affine_and_unit_length(folded, pixels, features, tmp_path):
    kernel, bias, scale = weights(1280, 1), weights(1), weights(1280) + 1

    def after(maker, pooled):
        s = maker.schema
        scaled = maker.plain("MUL", (pooled, maker.values(scale)), 1280, "scaled", s.MulOptionsT())
        squares = maker.plain("SQUARE", (scaled,), 1280, "squares")
        total = maker.plain("SUM", (squares, maker.values(np.array([1], np.int32))), 1, "sum", s.ReducerOptionsT())
        factor = maker.plain("RSQRT", (total,), 1, "factor")
        unit = maker.plain("MUL", (scaled, factor), 1280, "unit", s.MulOptionsT())
        return [maker.plain("LOGISTIC", (maker.dense(unit, kernel, bias, "kind"),), 1, "chance")]

    model = fastmnv2.load(written(tmp_path / "m.tflite", folded, after=after))
    x = features.astype(np.float64) * scale
    x /= np.sqrt((x * x).sum(axis=1, keepdims=True))
    near(model.predict(pixels), sigmoid(x @ kernel + bias).astype(np.float32))


def test_our_own_outputs_side_by_side(folded, pixels, features, tmp_path):
    """Features and predictions, as in our exports: one chain with two outputs."""

    def after(maker, pooled):
        return [pooled, maker.softmax(maker.dense(pooled, weights(1280, 3), weights(3), "kinds"), 3)]

    assert fastmnv2.load(written(tmp_path / "m.tflite", folded, after=after)).has_head


def two_heads(maker, pooled):
    first = maker.dense(pooled, weights(1280, 3), weights(3), "first")
    return [first, maker.dense(pooled, weights(1280, 2), weights(2), "second")]


def hyperbolic(maker, pooled):
    return [maker.plain("TANH", (maker.dense(pooled, weights(1280, 3), weights(3), "kinds"),), 3, "odd_one")]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"after": two_heads}, "second is a second branch"),
        ({"after": hyperbolic}, "odd_one can't be run"),
        ({"pool": "REDUCE_MAX"}, "REDUCE_MAX.* only its average"),
        ({"unclamped": "MobilenetV2/Conv_1"}, "MEAN.* only its average after ReLU6"),
    ],
    ids=["two heads", "tanh", "max pooling", "no ReLU6"],
)
def test_heads_never_block_the_features(folded, pixels, features, tmp_path, parts, message):
    path = written(tmp_path / "m.tflite", folded, **parts)
    with pytest.raises(fastmnv2.WeightsError, match=message) as caught:
        fastmnv2.load(path)
    assert "head=False" in str(caught.value)
    model = fastmnv2.load(path, head=False)
    assert not model.has_head
    assert (model.embed(pixels) == features).all()


def test_other_types_of_activation_are_refused(folded, tmp_path):
    maker = FloatMaker(folded)
    convert = maker.tensor

    def as_int16(shape, dtype, *rest, **named):
        index = convert(shape, dtype, *rest, **named)
        if len(shape) == 4 and "data" not in named:
            maker.tensors[index].type = maker.schema.TensorType.INT16
        return index

    maker.tensor = as_int16
    (tmp_path / "m.tflite").write_bytes(maker.data())
    for how in ({}, {"head": False}, {"precision": "int8"}):
        with pytest.raises(fastmnv2.WeightsError, match="got int16"):
            fastmnv2.load(tmp_path / "m.tflite", **how)


def test_weights_of_types_that_are_not_listed_are_refused(folded, tmp_path):
    for kind, name in (("INT4", "int4"), ("BFLOAT16", "bfloat16"), ("INT64", "int64")):
        maker = FloatMaker(folded)
        data = maker.values

        def odd(values, maker=maker, data=data, kind=kind):
            index = data(values)
            if values.shape == (24,):
                maker.tensors[index].type = getattr(maker.schema.TensorType, kind)
                if kind == "INT64":
                    maker.buffers[-1].data = np.zeros(24 * 8, np.uint8)
            return index

        maker.values = odd
        (tmp_path / "m.tflite").write_bytes(maker.data())
        with pytest.raises(fastmnv2.WeightsError, match=name):
            fastmnv2.load(tmp_path / "m.tflite")


def test_a_scaling_that_was_folded_in_is_noticed(folded, pixels, features, tmp_path):
    from dataclasses import replace

    first = folded.network.layers[0].weights_name
    small = replace(folded, tensors=folded.tensors | {first: folded.tensors[first] / np.float32(255)})
    path = written(tmp_path / "m.tflite", small)
    with pytest.warns(UserWarning, match=r"times smaller than usual.*input_range=\(0, 255\)"):
        model = fastmnv2.load(path)
    assert "times smaller" in " ".join(model.weights["notes"])
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels_model = fastmnv2.load(path, input_range=(0, 255))
        unit = fastmnv2.load(written(tmp_path / "n.tflite", folded), input_range=(0, 1))
        fastmnv2.load(written(tmp_path / "o.tflite", folded))
    near(pixels_model.embed(pixels), unit.embed(pixels))


def test_arithmetic_before_the_network_is_read(folded, pixels, tmp_path):
    for before, expected in (
        ([("MUL", 1 / 127.5), ("SUB", 1.0)], (-1.0, 1.0)),
        ([("MUL", 2.0), ("ADD", -1.0)], (-1.0, 1.0)),
        ([("MUL", 0.07)], (0.0, 17.85)),
        ([("SUB", 127.5), ("DIV", 127.5)], (-1.0, 1.0)),
        ([("DIV", 255.0), ("SUB", 1.0, True)], (1.0, 0.0)),
        ([("MUL", [1 / 255] * 3), ("SUB", [0.5] * 3), ("DIV", [0.25] * 3)], (-2.0, 2.0)),
    ):
        model = fastmnv2.load(written(tmp_path / "m.tflite", folded, before=before))
        assert model.weights["input_range"] == pytest.approx(expected)


def test_a_graph_that_resizes_images_says_the_networks_size(folded, pixels, features, tmp_path):
    model = fastmnv2.load(
        written(tmp_path / "m.tflite", folded, size=(128, 160), before=[("MUL", 1 / 127.5), ("SUB", 1.0)])
    )
    assert model.network == folded.network
    assert model.weights["input_range"] == pytest.approx((-1.0, 1.0))
    near(model.embed(pixels), features)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (("MUL", [1, 1, 0.5]), "scales channels differently"),
        (("DIV", 0.0), "by 0"),
        (("DIV", 1.0, True), "by the image"),
    ],
)
def test_arithmetic_that_cant_be_run_is_told(folded, tmp_path, before, said):
    path = written(tmp_path / "m.tflite", folded, before=[before])
    with pytest.raises(fastmnv2.WeightsError, match=rf"operator 0 \({before[0]}\).*{said}.*pass input_range="):
        fastmnv2.load(path)
    assert fastmnv2.load(path, input_range=(0, 1)).weights["input_range"] == (0, 1)
