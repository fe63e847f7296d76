"""Every member of the family is recognised by its weights and close to float64. Its int8 bytes are LiteRT's."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from reference import forward

import fastmnv2
from fastmnv2.core import network as networks
from fastmnv2.core.errors import WeightsError
from fastmnv2.core.network import DEFAULT, MULTIPLIERS, of
from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import native
from fastmnv2.weights.untrained import untrained


def keras_channels(multiplier):
    """keras.applications' rule for the 17 blocks' outputs, written independently."""

    def divisible(value):
        rounded = max(8, int(value + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * value else rounded

    stages = [(16, 1), (24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1)]
    blocks = [divisible(channels * multiplier) for channels, count in stages for _ in range(count)]
    return divisible(32 * multiplier), *blocks, divisible(1280 * multiplier) if multiplier > 1 else 1280


@pytest.mark.slow
def test_every_multiplier_follows_the_rule_and_is_found_again():
    for hundredths in range(25, 201):
        network = of(hundredths / 100, 96, 96)
        channels = network.handle.channels
        assert channels == keras_channels(hundredths / 100)
        found = networks.nearest_multiplier(channels)
        assert of(found, 96, 96).handle.channels == channels
        assert found == network.multiplier or hundredths / 100 not in MULTIPLIERS
    for step in range(500, 4001):  # the search skips no network
        channels = keras_channels(step / 2000)
        assert of(networks.nearest_multiplier(channels), 96, 96).handle.channels == channels


def test_names_and_sizes():
    assert DEFAULT.name == "mobilenet_v2_075_96"
    assert of(1.4, 224, 224).name == "mobilenet_v2_140_224"
    assert of(0.6125, 96, 128).name == "mobilenet_v2_06125_96x128"
    assert (of(1.4, 224, 224).features, of(0.35, 96, 96).features) == (1792, 1280)
    assert pickle.loads(pickle.dumps(of(1.0, 224, 224))) is of(1.0, 224, 224)
    sizes = (31, 96), (96, 513), (10**30, 96), (96, -(10**30))
    for wrong in ((0.2, 96, 96), (2.1, 96, 96), (float("nan"), 96, 96), *((1.0, *size) for size in sizes)):
        with pytest.raises(ValueError, match=r"expected a multiplier from 0\.25 to 2"):
            of(*wrong)


MEMBERS = [(0.25, 64, 64), (0.35, 96, 96), (0.6, 64, 128), (1.0, 64, 96), (1.4, 96, 96)]
# Sizes that give maps of odd height and width, of one row and of one column.
ODD_MEMBERS = [(0.25, 65, 65), (0.35, 33, 47), (0.35, 32, 32), (0.5, 32, 97), (0.75, 97, 33)]
# Common sizes, and the largest width and height.
LARGE_MEMBERS = [(0.35, 100, 100), (0.35, 150, 200), (0.35, 299, 299), (0.25, 32, 512), (0.25, 511, 33)]


@pytest.fixture(
    scope="module",
    params=[*MEMBERS, *ODD_MEMBERS, *(pytest.param(which, marks=pytest.mark.slow) for which in LARGE_MEMBERS)],
)
def member(request):
    network = of(*request.param)
    # Weights made on larger maps, because statistics of one pixel would give weights that amplify rounding errors.
    source = untrained(seed=1, network=of(network.multiplier, 96, 96))
    return network, replace(source, size=network.size)


def test_every_endpoint_is_as_near_to_float64_as_float32_can_be(member, tmp_path):
    network, source = member
    native.write(tmp_path / "w.safetensors", fold(source))
    model = fastmnv2.load(tmp_path / "w.safetensors")
    assert model.network == network
    images = np.random.RandomState(0).rand(3, *network.image_shape).astype(np.float32)
    truth = forward(source.tensors, images)
    for name, got in model.endpoints(images).items():
        error = np.linalg.norm(got - truth[name]) / np.linalg.norm(truth[name])
        assert error < 1e-5, (name, error)
    assert np.linalg.norm(model.logits(images) - truth["logits"]) < 1e-5 * np.linalg.norm(truth["logits"])
    for i, image in enumerate(images):
        assert np.array_equal(model.embed(image), model.embed(images)[i])


def test_the_multiplier_follows_from_the_weights(member):
    network, source = member
    assert fold(source).network == network
    if network.multiplier == DEFAULT.multiplier:
        assumed = fold(replace(source, size=None))
        assert assumed.network == DEFAULT
        assert "96 x 96 is assumed" in assumed.notes[-1]
        return
    with pytest.raises(WeightsError, match=r"image size of these weights is not recorded.* size="):
        fold(replace(source, size=None))
    other = dict(source.tensors)
    name = network.layers[5].weights_name
    other[name] = other[name][..., :-1]
    with pytest.raises(WeightsError, match=rf"{name}: expected shape .*\(1 of \d+ tensors differ\)"):
        fold(replace(source, tensors=other))


def test_int8_of_other_members(member, tmp_path):
    from fastmnv2.weights.int8 import calibration

    network, source = member
    images = np.random.RandomState(0).randint(0, 256, (6, *network.image_shape)).astype(np.uint8)
    report = calibration.quantize(fold(source), tmp_path / "q.safetensors", images)
    model = fastmnv2.load(tmp_path / "q.safetensors", precision="int8")
    assert model.network == network
    assert report.cosines.min() > 0.9
    assert np.array_equal(model.embed(images)[4], model.embed(images[4], threads=1))


@pytest.mark.parametrize("name", ["0_5_160", "0_75_224", "1_0_160", "1_0_224"])
def test_googles_other_uint8_files_have_litert_bytes(real_weights, name):
    path = real_weights / f"mobilenet_v2_{name}_quant.tflite"
    if not path.is_file():
        pytest.skip(f"no {path}")
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    model = fastmnv2.load(path, precision="int8")
    image = np.random.RandomState(0).randint(0, 256, (1, *model.network.image_shape)).astype(np.uint8)
    interpreter = litert.Interpreter(str(path), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    found = {details["name"]: details["index"] for details in interpreter.get_tensor_details()}
    raw = model.endpoints(image, raw=True)
    for index, block in enumerate(("", "_1", "_6", "_13", "_16")):
        scope = f"MobilenetV2/expanded_conv{block}/depthwise/Relu6"
        mine = raw[f"MobilenetV2/layer_{(0, 1, 6, 13, 16)[index] + 2}/depthwise_output"]
        assert np.array_equal(interpreter.get_tensor(found[scope]), mine), scope
    pooled = interpreter.get_tensor(found["MobilenetV2/Logits/AvgPool"])
    assert np.array_equal(pooled, raw["MobilenetV2/global_pool"])
    scores = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert np.array_equal(np.rint(model.predict(image) * 256), scores)


@pytest.mark.slow
@pytest.mark.parametrize("which", [(0.35, 224), (0.5, 160), (1.0, 224), (1.4, 224)])
def test_keras_networks_are_within_the_bar(tmp_path, which):
    """Seeded weights from a file that Keras wrote: the error against float64 is at most twice TensorFlow's."""
    from keras_model import keras_model

    network = of(which[0], which[1], which[1])
    source = untrained(seed=2, network=network)
    model = keras_model(source.tensors, alpha=which[0], size=network.size)
    model.save(tmp_path / "m.keras")
    images = np.random.RandomState(1).rand(2, *network.image_shape).astype(np.float32)
    truth = forward(source.tensors, images)["default"]
    mine = fastmnv2.load(tmp_path / "m.keras")
    assert mine.network == network

    def error(got):
        return np.linalg.norm(got - truth) / np.linalg.norm(truth)

    theirs = error(np.asarray(model(images * 2 - 1)))
    assert error(mine.embed(images)) <= min(2 * theirs, 1e-5)
