"""8-bit models: every op's bytes equal LiteRT's, on Google's file and on files that no converter would make."""

import pickle

import int8_files
import numpy as np
import pytest

import fastmnv2
from fastmnv2.core.errors import WeightsError
from fastmnv2.core.model import ENDPOINT_NAMES, PROJECTION_NAMES
from fastmnv2.core.network import DEFAULT, of
from fastmnv2.weights.forms import native
from fastmnv2.weights.resolve import resolve

COMPUTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "AVERAGE_POOL_2D", "MEAN")
KINDS = {
    "uint8": (np.uint8, {}),
    "uint8 wild, logits": (np.uint8, {"wild": True, "logits": True}),
    "int8": (np.int8, {}),
    "int8 wild": (np.int8, {"wild": True}),
    "int8 between float ends": (np.int8, {"float_ends": True}),
    "int8 with a tail": (np.int8, {"tail": True, "ties": True}),
    "int8 with logits": (np.int8, {"logits": True}),
}


@pytest.fixture(scope="session")
def tflite_files(tmp_path_factory):
    """Paths of one file of each kind."""
    pytest.importorskip("ai_edge_litert")
    folder = tmp_path_factory.mktemp("int8")
    return {
        kind: int8_files.write(folder / f"{seed}.tflite", seed, dtype, **options)
        for seed, (kind, (dtype, options)) in enumerate(KINDS.items())
    }


@pytest.fixture(params=[*KINDS, "Google's"])
def path(request, tflite_files):
    return tflite_files[request.param] if request.param in tflite_files else request.getfixturevalue("real_tflite")


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(7)
    noise = random.integers(0, 256, (3, DEFAULT.height, DEFAULT.height, 3), np.uint8)
    ramp = np.linspace(0, 255, DEFAULT.height).astype(np.uint8)
    smooth = np.stack([np.broadcast_to(ramp, noise.shape[1:3])] * 3, axis=-1)
    return np.concatenate([noise, smooth[np.newaxis], np.zeros_like(noise[:1]), np.full_like(noise[:1], 255)])


def names_of_ops(network=DEFAULT):
    """Our names of the outputs of LiteRT's operators, in order."""
    names = []
    for block, project in enumerate(network.layers[2:-1:3]):
        expansion, depthwise, output = (network.endpoints[4 * block + part].name for part in range(3))
        names += [expansion, depthwise, PROJECTION_NAMES[block], *([output] if project.residual else [])]
    return [*names, network.endpoints[-2].name, network.endpoints[-1].name]


def litert(path, pictures, network=DEFAULT):
    """The output of every op in LiteRT's default engine: {name: integers}, with "logits" and "SOFTMAX" if present."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    ops = [op for op in interpreter._get_ops_details() if op["op_name"] != "DELEGATE"]
    computed = [op["outputs"][0] for op in ops if op["op_name"] in COMPUTED]
    others = {op["op_name"]: op["outputs"][0] for op in ops if op["op_name"] == "SOFTMAX"}
    names = names_of_ops(network)
    found = {name: [] for name in [*names, *(["logits"] if len(computed) > len(names) else []), *others]}
    for picture in pictures:
        pixels = picture.astype(np.int16) + (-128 if source["dtype"] == np.int8 else 0)
        if source["dtype"] == np.float32:
            pixels = (picture - 127.0) / 127.5  # QUANTIZE turns these back into the same bytes
        interpreter.set_tensor(source["index"], pixels[np.newaxis].astype(source["dtype"]))
        interpreter.invoke()
        for name, index in zip(found, [*computed, *others.values()], strict=True):
            found[name].append(interpreter.get_tensor(index).copy())
    return {name: np.concatenate(arrays) for name, arrays in found.items()}


def test_every_op_has_the_bytes_of_litert(path, pictures):
    model = fastmnv2.load(path, precision="int8")
    want = litert(path, pictures)
    got = model.endpoints(pictures, names_of_ops(), raw=True)
    for name in names_of_ops():
        assert got[name].dtype == want[name].dtype
        different = np.count_nonzero(got[name].reshape(want[name].shape) != want[name])
        assert different == 0, f"{name}: {different} of {want[name].size} bytes"
    if "logits" in want:
        scale, zero = model.quantization("logits")
        logits = model.logits(pictures)
        assert np.array_equal(np.rint(logits / scale) + zero, want["logits"].reshape(logits.shape))
    if "SOFTMAX" in want:
        indices, probabilities = model.classify(pictures, top=DEFAULT.classes)
        assert np.array_equal(probabilities * 256, np.take_along_axis(want["SOFTMAX"], indices, axis=1))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("which", [(0.25, 65, 33), (0.35, 33, 47), (0.35, 32, 32), (0.5, 32, 97), (0.75, 150, 100)])
def test_every_op_of_odd_sizes_has_the_bytes_of_litert(tmp_path, which, dtype):
    """Maps of odd height and width, of one row and of one column: stride 2 pads them on both sides."""
    pytest.importorskip("ai_edge_litert")
    network = of(*which)
    path = int8_files.write(tmp_path / "odd.tflite", 3, dtype, network=network, wild=True, ties=True)
    pictures = np.random.default_rng(8).integers(0, 256, (2, *network.image_shape), np.uint8)
    want = litert(path, pictures, network)
    model = fastmnv2.load(path, precision="int8")
    assert model.network == network
    got = model.endpoints(pictures, names_of_ops(network), raw=True)
    for name in names_of_ops(network):
        different = np.count_nonzero(got[name].reshape(want[name].shape) != want[name])
        assert different == 0, f"{name}: {different} of {want[name].size} bytes"


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_a_map_of_one_pixel_is_its_own_average(tmp_path, dtype):
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")

    class Flattened(int8_files.Maker):
        def pool(self, source, scale, zero):
            target = self.tensor((1, self.network.features), self.dtype, scale, zero)
            sizes = self.tensor((2,), np.int32, data=np.array([1, self.network.features], np.int32))
            return self.operator("RESHAPE", (source, sizes), target, self.schema.ReshapeOptionsT()), scale

    path, network = tmp_path / "m.tflite", of(0.35, 32, 32)
    path.write_bytes(Flattened(4, dtype, network=network).data())
    picture = np.random.default_rng(9).integers(0, 256, (1, *network.image_shape), np.uint8)
    interpreter = interpreters.Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    moved = (picture.astype(np.int16) + np.iinfo(dtype).min).astype(dtype)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], moved)
    interpreter.invoke()
    want = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    got = fastmnv2.load(path, precision="int8").endpoints(picture, "MobilenetV2/global_pool", raw=True)
    assert np.array_equal(got["MobilenetV2/global_pool"].reshape(want.shape), want)


@pytest.mark.parametrize("kind", ["uint8 wild, logits", "int8 wild"])
def test_the_same_bytes_on_every_instruction_set_and_in_every_call(tflite_files, pictures, kind, monkeypatch):
    want = fastmnv2.load(tflite_files[kind], precision="int8").endpoints(pictures, raw=True)
    for isa in fastmnv2.available_isas("int8"):
        monkeypatch.setenv("FASTMNV2_ISA", isa)
        model = fastmnv2.load(tflite_files[kind], precision="int8")
        assert model.isa == isa
        some = pictures[:2] if isa == "scalar" else pictures
        got = model.endpoints(some, raw=True)
        assert all(np.array_equal(got[name], want[name][: len(some)]) for name in want)
        features = model.embed(some, threads=1)
        for threads in (2, 3, 7):
            assert np.array_equal(model.embed(some, threads=threads), features)
            assert np.array_equal(model.embed(some[1], threads=threads), features[1])
        many = model.endpoints(some[:1], raw=True, threads=5)
        assert all(np.array_equal(many[name], want[name][:1]) for name in want)


def test_float_pixels_are_the_bytes_they_came_from(tflite_files, pictures):
    model = fastmnv2.load(tflite_files["int8"], precision="int8")
    features = model.embed(pictures)
    assert np.array_equal(model.embed(pictures / np.float32(255)), features)
    assert np.array_equal(model.embed(pictures * np.float32(1 / 255)), features)
    near = (pictures + np.random.default_rng(0).uniform(-0.49, 0.49, pictures.shape)) / 255
    assert np.array_equal(model.embed(near.astype(np.float32)), features)
    with pytest.warns(UserWarning, match=r"\[0, 1\]"):
        assert np.array_equal(
            model.embed((pictures - np.float32(127)) * 1e6),
            model.embed(np.where(pictures > 127, 255, 0).astype(np.uint8)),
        )


def test_an_image_with_nan_gives_nan_and_others_do_not(tflite_files, pictures):
    model = fastmnv2.load(tflite_files["uint8 wild, logits"], precision="int8")
    images = pictures / np.float32(255)
    images[2, 50, 60, 1] = np.nan
    for threads in (1, 2):
        features = model.embed(images, threads=threads)
        assert np.isnan(features).all(axis=1).tolist() == [i == 2 for i in range(len(images))]
        assert np.isnan(model.logits(images, threads=threads)).all(axis=1).tolist() == [
            i == 2 for i in range(len(images))
        ]
        assert np.isnan(model.embed(images[2], threads=threads)).all()
    names = ["default", ENDPOINT_NAMES[1], ENDPOINT_NAMES[-1], PROJECTION_NAMES[3]]
    whole = model.endpoints(pictures[: len(images)], names)
    for name, values in model.endpoints(images, names).items():
        assert np.isnan(values[2]).all(), name
        np.testing.assert_array_equal(np.delete(values, 2, 0), np.delete(whole[name], 2, 0))
    assert np.isnan(model.endpoints(images[2], names[1])[names[1]]).all()
    assert model.endpoints(images, names[1], raw=True)[names[1]].dtype == model.folded.dtype
    assert np.isfinite(model.embed(images[3])).all()


def test_numbers_are_dequantised_integers(tflite_files, pictures):
    for kind in ("uint8", "int8 wild"):
        model = fastmnv2.load(tflite_files[kind], precision="int8")
        names = [*ENDPOINT_NAMES[::5], PROJECTION_NAMES[3], "default"]
        raw, numbers = model.endpoints(pictures, names, raw=True), model.endpoints(pictures, names)
        for name in names:
            scale, zero = model.quantization(name)
            assert np.array_equal(numbers[name], (raw[name].astype(np.float32) - zero) * np.float32(scale))
        assert np.array_equal(numbers["default"], model.embed(pictures))


def test_a_model_reports_its_precision(tflite_files):
    model = fastmnv2.load(tflite_files["int8"], precision="int8")
    assert model.precision == "int8"
    assert fastmnv2.info(model)["weights"]["precision"] == "int8"
    assert "int8" in repr(model)
    other = fastmnv2.load(tflite_files["int8"])
    assert other.precision == "float32"
    for call in (lambda: other.quantization("default"), lambda: other.endpoints(np.zeros((96, 96, 3)), raw=True)):
        with pytest.raises(ValueError, match="int8 model"):
            call()
    with pytest.raises(ValueError, match="precision"):
        fastmnv2.load(tflite_files["int8"], precision="int4")
    with pytest.raises(WeightsError, match="fastmnv2 quantize"):
        fastmnv2.load("imagenet", precision="int8")
    assert fastmnv2.load("untrained", precision="int8").precision == "int8"


def test_native_files_hold_8_bit_weights(tflite_files, pictures, tmp_path):
    for kind, source in tflite_files.items():
        target = tmp_path / "native.safetensors"
        native.write(target, resolve(source, precision="int8"))
        model, original = fastmnv2.load(target, precision="int8"), fastmnv2.load(source, precision="int8")
        assert np.array_equal(model.embed(pictures), original.embed(pictures)), kind
        plain, dequantised = resolve(target, precision="float32"), resolve(source)
        for name, array in plain.tensors.items():
            assert np.array_equal(array, dequantised.tensors[name]), f"{kind}: {name}"
        again = pickle.loads(pickle.dumps(model))
        assert np.array_equal(again.embed(pictures), model.embed(pictures))
    float_file = tmp_path / "float.safetensors"
    native.write(float_file, resolve(tflite_files["int8"]))
    with pytest.raises(WeightsError, match="8-bit"):
        fastmnv2.load(float_file, precision="int8")


def _spoil(tensors, name, value):
    array = tensors[name].copy()
    array.flat[-1] = value
    return tensors | {name: array}


SCOPE = DEFAULT.layers[4].scope
HOSTILE = {
    "a scale of 0": (f"{SCOPE}/output_scale", 0.0),
    "a negative scale": (f"{SCOPE}/weights_scales", -0.1),
    "a scale that is NaN": (f"{SCOPE}/weights_scales", np.nan),
    "an infinite scale": (f"{SCOPE}/output_scale", np.inf),
    "a denormal scale": (f"{SCOPE}/weights_scales", 1e-39),
    "a multiplier of 256": (f"{SCOPE}/weights_scales", 3e3),
    "a range past the type": (f"{SCOPE}/output_range", 999),
    "weights off centre": (f"{SCOPE}/weights_zero_point", 1),
    "a sum past int32": (f"{SCOPE}/biases", 2**31 - 5),
    "scales of a residual too far apart": ("MobilenetV2/expanded_conv_2/sum/output_scale", 1e-6),
    "another range of pixels": ("image/output_scale", 1 / 255),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_numbers_give_one_error(tflite_files, tmp_path, what):
    name, value = HOSTILE[what]
    good = resolve(tflite_files["int8"], precision="int8")
    with pytest.raises(WeightsError):
        type(good).of(good, _spoil(good.tensors, name, value))
    # Set without the checks, so that the file contains the bad value.
    object.__setattr__(good, "tensors", _spoil(good.tensors, name, value))
    native.write(tmp_path / "hostile.safetensors", good)
    for precision in ("int8", "float32"):
        with pytest.raises(WeightsError, match="hostile"):
            fastmnv2.load(tmp_path / "hostile.safetensors", precision=precision)


class TestQuantize:
    """Float weights quantised to an int8 network."""

    def test_is_near_the_float_network_and_calibration_matters(self, untrained_native, pictures, tmp_path):
        random = np.random.default_rng(3)
        images = np.concatenate([pictures, random.integers(0, 256, (9, *pictures.shape[1:]), np.uint8)])
        called = []
        with pytest.warns(DeprecationWarning, match="progress"):
            report = fastmnv2.quantize(
                untrained_native, tmp_path / "int8.safetensors", images, progress=lambda *counts: called.append(counts)
            )
        assert called[-1][0] == called[-1][1] == len(called) - 1
        assert (report.calibrated, report.held_out) == (12, 3)
        assert report.cosines.min() > 0.97
        assert list(report.errors)[-1] == DEFAULT.endpoints[-1].name
        assert all(error < 0.3 for error in report.errors.values())
        assert "cosine" in "\n".join(report.lines())
        model = fastmnv2.load(tmp_path / "int8.safetensors", precision="int8")
        original = fastmnv2.load(untrained_native)
        a, b = model.embed(images), original.embed(images)
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosines.min() > 0.97

    def test_unsuitable_calibration_images_are_refused(self, untrained_native, pictures, tmp_path):
        target = tmp_path / "int8.safetensors"
        with pytest.raises(ValueError, match="at least 5"):
            fastmnv2.quantize(untrained_native, target, pictures[:4])
        with pytest.raises(ValueError, match="finite"):
            fastmnv2.quantize(untrained_native, target, np.full(pictures.shape, np.nan, np.float32))
        assert not target.exists()

    def test_from_the_command_line(self, untrained_native, pictures, tmp_path):
        click_testing = pytest.importorskip("click.testing")
        from PIL import Image

        from fastmnv2.cli import cli

        folder = tmp_path / "pictures"
        folder.mkdir()
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / f"{number}.png")
        target = tmp_path / "int8.safetensors"
        arguments = ["quantize", str(untrained_native), str(target), "--calibrate", str(folder)]
        done = click_testing.CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
        assert "calibrated on 5 pictures, measured on 1 others" in done.output
        again = click_testing.CliRunner().invoke(cli, arguments)
        assert again.exit_code == 1
        assert "--force" in again.output
        native_file = ["convert", str(target), str(tmp_path / "copy.safetensors"), "--precision", "int8"]
        assert click_testing.CliRunner().invoke(cli, native_file).exit_code == 0
        assert fastmnv2.load(tmp_path / "copy.safetensors", precision="int8").precision == "int8"
