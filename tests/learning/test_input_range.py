"""The input range: layers before the network in Keras files, and what other files record of it."""

import numpy as np
import pytest
from keras_model import keras_output, near, saved, whole

import fastmnv2

RANGES = [(1 / 127.5, -1.0), (1 / 255, 0.0), (1 / 128, -1.0), (0.01, 0.3), (1 / 64, -2.0), (-1 / 255, 1.0)]


@pytest.mark.parametrize(
    ("scale", "offset"), RANGES[:3] + [pytest.param(*range_, marks=pytest.mark.slow) for range_ in RANGES[3:]]
)
@pytest.mark.parametrize("suffix", ["keras"])
def test_a_rescaling_layer_sets_the_input_range(network, pixels, tmp_path, scale, offset, suffix):
    from keras import layers

    model = whole(network, [], [layers.Rescaling(scale, offset=offset)])
    theirs = keras_output(model, pixels.astype(np.float32))
    ours = fastmnv2.load(model if suffix == "memory" else saved(model, tmp_path / f"m.{suffix}"))
    near(ours.embed(pixels), theirs)
    near(ours.embed(pixels / np.float32(255)), theirs)
    np.testing.assert_allclose(ours.weights["input_range"], (offset, 255 * scale + offset), rtol=1e-6, atol=1e-7)


def test_a_rescaling_of_unit_images(network, pixels, tmp_path):
    from keras import layers

    for number, (scale, offset) in enumerate([(2.0, -1.0), (1.0, 0.0), (4.4, -2.1)]):
        model = whole(network, [], [layers.Rescaling(scale, offset=offset)])
        theirs = keras_output(model, pixels / np.float32(255))
        near(fastmnv2.load(saved(model, tmp_path / f"{number}.keras")).embed(pixels), theirs)


def test_layers_before_the_network_are_composed(network, pixels, tmp_path):
    import keras
    from keras import layers

    mean = 127.5
    before = [
        layers.RandomZoom(0.1),
        lambda x: x - mean,
        lambda x: keras.ops.multiply(x, 1 / 127.5),
        layers.GaussianNoise(0.1),
    ]
    model = whole(network, [], before)
    ours = fastmnv2.load(saved(model, tmp_path / "m.keras"))
    near(ours.embed(pixels), keras_output(model, pixels.astype(np.float32)))
    assert ours.weights["input_range"] == (-1.0, 1.0)


@pytest.mark.slow
def test_layers_before_the_network_that_cant_be_run(network, pixels, tmp_path):
    from keras import layers

    for layer, name in (
        (layers.Normalization(mean=[1, 2, 3], variance=[1, 2, 3], name="own_norm"), "own_norm"),
        (layers.Rescaling([1 / 255, 1 / 200, 1 / 100], name="each_apart"), "each_apart"),
        (layers.Rescaling(0.0, name="grey"), "Conv1"),
    ):
        path = saved(whole(network, [], [layer]), tmp_path / f"{name}.keras")
        with pytest.raises(fastmnv2.WeightsError, match=name):
            fastmnv2.load(path)
        assert fastmnv2.load(path, input_range=(-1, 1)).embed(pixels).shape == (len(pixels), 1280)


@pytest.mark.slow
def test_input_range_for_files_that_dont_record_it(network, pixels, tmp_path):
    network.save_weights(tmp_path / "m.weights.h5")
    for low, high in [(0, 1), (-1, 1), (-0.5, 2)]:
        ours = fastmnv2.load(tmp_path / "m.weights.h5", input_range=(low, high))
        theirs = keras_output(network, low + (high - low) * (pixels / np.float32(255)))
        near(ours.embed(pixels), theirs)
    for wrong in [(1, 1), (0, np.inf), (0,), "ab", 3, (None, 1)]:
        with pytest.raises(ValueError, match="input_range"):
            fastmnv2.load(tmp_path / "m.weights.h5", input_range=wrong)


def test_the_same_bits_on_every_instruction_set(network, pixels, tmp_path, monkeypatch):
    from keras import layers

    path = saved(whole(network, [layers.Dense(17)], [layers.Rescaling(1 / 99, offset=-0.7)]), tmp_path / "m.keras")
    want = None
    for isa in fastmnv2.available_isas():
        monkeypatch.setenv("FASTMNV2_ISA", isa)
        got = fastmnv2.load(path).predict(pixels[:3])
        want = got if want is None else want
        assert (got == want).all(), isa


def test_the_warning_knows_the_range(network, pixels):
    from keras import layers

    images = pixels / np.float32(255)
    model = fastmnv2.load(whole(network, [], [layers.Rescaling(1 / 255)]))
    with pytest.warns(UserWarning, match=r"expected float values in \[0, 1\]"):
        model.embed(images * 255)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "offset", "expected", "input_range"),
    [(1 / 100, -1.1, (-1.1, 1.45), None), (1 / 255, 0.0, (0, 255), (0, 255))],
)
def test_tflite_files_record_their_range(network, pixels, tmp_path, scale, offset, expected, input_range):
    """A factor without offset is folded into the first convolution, so the file does not show that it takes pixels."""
    from keras import layers
    from makers import converted

    model = whole(network, [], [layers.Rescaling(scale, offset=offset)])
    path = tmp_path / "m.tflite"
    path.write_bytes(converted(model))
    ours = fastmnv2.load(path, input_range=input_range)
    np.testing.assert_allclose(ours.weights["input_range"], expected, rtol=1e-6)
    near(ours.embed(pixels), keras_output(model, pixels))
