"""Quantised files keep the weights' metadata and run as int8 by default."""

import dataclasses

import numpy as np
import pytest

import fastmnv2
from fastmnv2.core.head import Head, Step
from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import native
from fastmnv2.weights.int8.quantised import image_quantity
from fastmnv2.weights.resolve import resolve
from fastmnv2.weights.untrained import untrained


@pytest.fixture(scope="module")
def calibration():
    from fastmnv2.core.network import DEFAULT
    from fastmnv2.weights.untrained import _images

    return np.rint(255 * _images(np.random.RandomState(3), 10, DEFAULT)).astype(np.uint8)


def head():
    random = np.random.RandomState(0)
    kernel, bias = random.normal(0, 0.05, (1280, 3)).astype(np.float32), random.rand(3).astype(np.float32)
    return Head((Step("dense", "kinds", {"kernel": kernel, "bias": bias}), Step("softmax", "kinds")), ("a", "b", "c"))


@pytest.fixture(scope="module")
def files(tmp_path_factory, calibration):
    """Native files of a float network with a head and input range [0,1], and of the 8-bit network made from it."""
    folder = tmp_path_factory.mktemp("precision")
    found = fold(untrained()).without_logits()
    native.write(folder / "f.safetensors", dataclasses.replace(found, input_range=(0.0, 1.0), head=head()))
    fastmnv2.quantize(folder / "f.safetensors", folder / "q.safetensors", calibration)
    return folder / "f.safetensors", folder / "q.safetensors"


def cosine(a, b):
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def test_quantize_keeps_range_head_and_classes(files, calibration):
    plain, quantised = map(fastmnv2.load, files)
    assert quantised.precision == "int8"
    assert quantised.weights["input_range"] == (0.0, 1.0)
    assert quantised.classes == ("a", "b", "c")
    assert quantised.weights["head"] == plain.weights["head"]
    assert cosine(plain.embed(calibration), quantised.embed(calibration)) > 0.97
    again = fastmnv2.load(files[1], precision="float32")  # dequantised
    assert again.weights["input_range"] == (0.0, 1.0)
    assert cosine(plain.embed(calibration), again.embed(calibration)) > 0.97


@pytest.mark.parametrize("name", [None, "imagenet"])
def test_the_configured_weights_run_in_their_own_precision(files, monkeypatch, name):
    for path, precision in zip(files, ("float32", "int8"), strict=True):
        monkeypatch.setenv("FASTMNV2_WEIGHTS", str(path))
        assert fastmnv2.load(name).precision == fastmnv2.info(name)["weights"]["precision"] == precision
        assert fastmnv2.load(name, precision="float32").precision == "float32"


def test_a_native_file_runs_in_its_own_precision(files, tmp_path):
    assert fastmnv2.load(files[0]).precision == "float32"
    assert fastmnv2.load(files[1]).precision == "int8"
    assert fastmnv2.load(files[1], precision="float32").precision == "float32"
    with pytest.raises(fastmnv2.WeightsError):
        fastmnv2.load(files[0], precision="int8")
    with pytest.raises(ValueError, match="precision='float32'"):
        fastmnv2.load(files[1], input_range=(0, 1))
    with pytest.raises(ValueError, match="precision"):
        fastmnv2.load(files[1], precision="int4")
    for data in (b"", b"\xff" * 9, (1 << 20).to_bytes(8, "little"), (4).to_bytes(8, "little") + b"{]}["):
        (tmp_path / "x").write_bytes(data)
        assert native.precision_of(tmp_path / "x") == "float32"


def test_a_classifier_trained_on_int8_features_runs_on_them(files, calibration, tmp_path):
    folded = resolve(files[1], head=False)
    native.write(tmp_path / "c.safetensors", dataclasses.replace(folded, head=head(), file=""))
    model, features = fastmnv2.load(tmp_path / "c.safetensors"), fastmnv2.load(files[1]).embed(calibration)
    assert (model.embed(calibration) == features).all()
    want = np.exp(features.astype(np.float64) @ head().steps[0].tensors["kernel"] + head().steps[0].tensors["bias"])
    np.testing.assert_allclose(model.predict(calibration), want / want.sum(axis=1, keepdims=True), rtol=1e-4)


def test_ranges_of_8_bit_images(calibration, tmp_path):
    assert image_quantity(-1, 1) == (np.float32(1 / 127.5), -1)
    assert image_quantity(0, 1) == (np.float32(1 / 255), -128)
    for wrong in ((0.2, 1.0), (1.0, -1.0), (-2.0, -1.0)):
        found = dataclasses.replace(fold(untrained()), input_range=wrong)
        native.write(tmp_path / "f.safetensors", found)
        with pytest.raises(ValueError, match="a range that includes 0 for an 8-bit network"):
            fastmnv2.quantize(tmp_path / "f.safetensors", tmp_path / "q.safetensors", calibration)


def test_an_image_with_a_nan_gives_nan_classes(calibration, tmp_path):
    native.write(tmp_path / "f.safetensors", fold(untrained()))
    fastmnv2.quantize(tmp_path / "f.safetensors", tmp_path / "q.safetensors", calibration)
    images = (calibration[:3] / np.float32(255)).astype(np.float32)
    clean = fastmnv2.load(tmp_path / "q.safetensors").predict(images)
    images[1, 5, 5, 0] = np.nan
    for model in map(fastmnv2.load, (tmp_path / "q.safetensors", tmp_path / "f.safetensors")):
        scores = model.predict(images)
        assert np.isnan(scores[1]).all()
        assert np.isfinite(scores[[0, 2]]).all()
        assert np.isnan(model.logits(images)[1]).all()
        assert np.isnan(model.classify(images)[1][1]).all()
        assert np.isnan(model.predict(images[1])).all()
    assert (fastmnv2.load(tmp_path / "q.safetensors").predict(images)[[0, 2]] == clean[[0, 2]]).all()


def test_a_uint8_softmax_of_a_nan_is_nan(real_tflite):
    images = np.full((2, 96, 96, 3), 0.5, np.float32)
    images[1, 0, 0, 0] = np.nan
    model = fastmnv2.load(real_tflite, precision="int8")
    assert np.isnan(model.predict(images)[1]).all()
    assert np.isfinite(model.predict(images)[0]).all()
