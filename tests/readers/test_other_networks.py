"""Networks that are nearly MobileNet V2: other image sizes run, other numbers of colours are refused."""

import warnings

import int8_files
import numpy as np
import pytest
from makers import converted

import fastmnv2
from fastmnv2.core.errors import WeightsError
from fastmnv2.core.network import DEFAULT
from fastmnv2.weights import read
from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import tflite
from fastmnv2.weights.untrained import untrained


@pytest.fixture(scope="module")
def network():
    from keras_model import keras_model

    return keras_model(untrained().tensors)


def of_size(network, height, width, channels=3):
    import keras

    other = keras.applications.MobileNetV2(
        alpha=0.75, input_shape=(height, width, channels), include_top=False, pooling="avg", weights=None
    )
    if channels == 3:
        other.set_weights(network.get_weights())
    return other


@pytest.fixture(scope="module")
def int8():
    """The bytes of a TFLite file whose input and output are 8-bit too."""
    return int8_files.Maker(0, np.int8).data()


@pytest.mark.parametrize("suffix", ["keras", "h5", pytest.param("tflite", marks=pytest.mark.slow)])
def test_a_file_is_run_at_its_own_size(network, tmp_path, suffix):
    other = of_size(network, 160, 128)
    path = tmp_path / f"other.{suffix}"
    if suffix == "tflite":
        path.write_bytes(converted(other))
    else:
        other.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fastmnv2.load(path)
    assert model.network.name == "mobilenet_v2_075_160x128"
    assert fastmnv2.get_expected_image_size(model) == (160, 128)
    images = np.random.RandomState(0).rand(2, 160, 128, 3).astype(np.float32)
    np.testing.assert_allclose(model.embed(images), other(images * 2 - 1), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"expected shape \[n, 160, 128, 3\].*got shape \[2, 96, 96, 3\]"):
        model.embed(images[:, :96, :96])
    resized = fastmnv2.load(path, size=96)
    assert resized.embed(images[:, :96, :96]).shape == (2, 1280)
    assert any("160 x 128, is replaced" in note for note in resized.weights["notes"])


def test_a_model_for_images_of_any_size(tmp_path):
    """Keras pads such a model as for even maps, so with odd maps it is not MobileNet V2."""
    import keras

    path = tmp_path / "any.keras"
    other = keras.applications.MobileNetV2(
        alpha=0.35, input_shape=(None, None, 3), include_top=False, pooling="avg", weights=None
    )
    other.save(path)
    images = np.random.RandomState(0).rand(2, 64, 96, 3).astype(np.float32)
    model = fastmnv2.load(path, size=(64, 96))
    np.testing.assert_allclose(model.embed(images), other(images * 2 - 1), rtol=1e-3, atol=1e-4)
    for size in (150, (64, 97)):
        with pytest.raises(WeightsError, match="expected a size whose maps are even"):
            fastmnv2.load(path, size=size)


@pytest.mark.slow
def test_a_model_for_images_of_any_size_that_pads_odd_maps(tmp_path):
    import keras

    path = tmp_path / "any.keras"
    other = keras.applications.MobileNetV2(
        alpha=0.35, input_shape=(None, None, 3), include_top=False, pooling="avg", weights=None
    )
    for layer in other.layers:  # maps of 97, 49, 25, 13 and 7
        if isinstance(layer, keras.layers.ZeroPadding2D):
            layer.padding = ((1, 1), (1, 1))
    other.save(path)
    images = np.random.RandomState(1).rand(2, 97, 97, 3).astype(np.float32)
    ours = fastmnv2.load(path, size=97).embed(images)
    np.testing.assert_allclose(ours, other(images * 2 - 1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("suffix", ["keras", pytest.param("tflite", marks=pytest.mark.slow)])
def test_another_channel_count_is_refused(network, tmp_path, suffix):
    path = tmp_path / f"grey.{suffix}"
    other = of_size(network, 96, 96, channels=1)
    path.write_bytes(converted(other)) if suffix == "tflite" else other.save(path)
    with pytest.raises(WeightsError, match=r"expected (one input \[n, height, width, 3\]|shape \[3, 3, 3, 24\]), got"):
        fastmnv2.load(path)


def changed(data, find, part, value):
    """A copy of a file in which the tensor ``find(graph)`` has another first scale or zero point."""
    data = bytearray(data)
    graph = tflite.Graph(bytes(data), "f")
    numbers = getattr(graph.tensors[find(graph)], part)
    at = numbers.__array_interface__["data"][0] - np.frombuffer(graph.data, "u1").__array_interface__["data"][0]
    data[at : at + numbers.itemsize] = np.array([value], numbers.dtype).tobytes()
    return bytes(data)


def operand(layer, number):
    """Index of a convolution's input, kernel or bias."""

    def find(graph):
        convolutions = [found for found in graph.operators if found.name in ("CONV_2D", "DEPTHWISE_CONV_2D")]
        return convolutions[layer].inputs[number]

    return find


def image_of(graph):
    return graph.inputs[0]


@pytest.mark.parametrize("scale", [0, -0.01, 1e-40, np.nan, np.inf])
@pytest.mark.parametrize("layer", [0, 1, len(DEFAULT.layers) - 2])
@pytest.mark.parametrize("number", [1, 2])
def test_impossible_scales_are_refused(int8, tmp_path, scale, layer, number):
    (tmp_path / "q.tflite").write_bytes(changed(int8, operand(layer, number), "scale", scale))
    with pytest.raises(WeightsError, match=r"expected positive scales, got"):
        fold(read(tmp_path / "q.tflite"))


@pytest.mark.parametrize(("number", "zero"), [(1, 128), (1, -129), (1, 1 << 40), (2, 1), (2, -1)])
def test_zero_points_out_of_range_are_refused(int8, tmp_path, number, zero):
    (tmp_path / "q.tflite").write_bytes(changed(int8, operand(3, number), "zero_point", zero))
    with pytest.raises(WeightsError, match=rf"expected zero points from .*, got {zero}"):
        fold(read(tmp_path / "q.tflite"))


@pytest.mark.parametrize(("scale", "zero", "input_range"), [(1 / 255, -128, (0, 1)), (1, -128, (0, 255))])
def test_the_range_of_the_input_is_read(int8, tmp_path, scale, zero, input_range):
    data = changed(changed(int8, image_of, "scale", scale), image_of, "zero_point", zero)
    (tmp_path / "q.tflite").write_bytes(data)
    assert fastmnv2.load(tmp_path / "q.tflite").weights["input_range"] == input_range


@pytest.mark.parametrize(("scale", "zero"), [(1 / 127.5, -128), (1 / 255, 0), (-1 / 127.5, 0), (0, 0)])
def test_other_input_ranges_are_refused(int8, tmp_path, scale, zero):
    data = changed(changed(int8, image_of, "scale", scale), image_of, "zero_point", zero)
    (tmp_path / "q.tflite").write_bytes(data)
    with pytest.raises(
        WeightsError, match=r"takes numbers in .*, expected \[-1, 1\], \[0, 1\] or \[0, 255\]; pass input_range="
    ):
        fastmnv2.load(tmp_path / "q.tflite")
    assert fastmnv2.load(tmp_path / "q.tflite", input_range=(0, 1)).weights["input_range"] == (0, 1)
    (tmp_path / "q.tflite").write_bytes(int8)
    assert fastmnv2.load(tmp_path / "q.tflite").weights["input_range"] == (-1, 1)
