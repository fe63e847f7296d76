"""The first layer shows scalings that no file records; impossible input ranges are refused."""

import dataclasses
import warnings

import numpy as np
import pytest

import fastmnv2
from fastmnv2.weights import first_layer
from fastmnv2.weights.fold import fold
from fastmnv2.weights.tensors import Source, range_of
from fastmnv2.weights.untrained import untrained

NORM = "MobilenetV2/Conv/BatchNorm/"


def trained(scale, shift):
    """Weights whose first batch norm was trained on images times ``scale`` plus ``shift``."""
    found = untrained()
    kernel = found.tensors["MobilenetV2/Conv/weights"]
    mean, variance = found.tensors[NORM + "moving_mean"], found.tensors[NORM + "moving_variance"]
    changed = {
        NORM + "moving_mean": mean * np.float32(scale) + kernel.sum((0, 1, 2)) * np.float32(shift),
        NORM + "moving_variance": variance * np.float32(scale) ** 2,
    }
    return dataclasses.replace(found, form="keras", tensors=found.tensors | changed)


def test_batch_norms_show_the_scaling():
    assert first_layer.doubt(trained(1, 0)) == ""
    assert "input_range=(0, 255)" in first_layer.doubt(trained(127.5, 127.5))
    assert "input_range=(0, 1)" in first_layer.doubt(trained(0.5, 0.5))
    assert "less contrast" in first_layer.doubt(trained(1 / 255, 0))
    assert first_layer.doubt(trained(0.5, 0)) == ""  # dark or dull images, but not in [0,1]
    recorded = dataclasses.replace(trained(127.5, 127.5), input_range=(0.0, 255.0))
    assert first_layer.doubt(recorded) == ""


def test_a_folded_kernel_shows_the_scaling():
    folded = fold(untrained())
    kernel = folded.tensors["MobilenetV2/Conv/weights"]
    for factor, doubted in ((1, False), (1 / 3, False), (4, False), (1 / 255, True), (1 / 127.5, True)):
        changed = folded.tensors | {"MobilenetV2/Conv/weights": kernel * np.float32(factor)}
        found = first_layer.doubt(Source("tflite", "m.tflite", "", changed))
        assert bool(found) == doubted, factor


def test_real_weights_raise_no_doubt(real_tflite):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in sorted(real_tflite.parent.glob("mobilenet_v2_*")):
            fastmnv2.load(path)


@pytest.mark.parametrize("edges", [(0, 1e39), (-3e38, 3e38), (1, 1 + 1e-9), (0, float("nan")), (5, 5), (0, -1e31)])
def test_ranges_that_float32_cant_hold(edges):
    with pytest.raises(ValueError, match="input_range"):
        fastmnv2.load("untrained", input_range=edges)


def test_large_ranges_give_finite_numbers():
    model = fastmnv2.load("untrained", input_range=(-1e30, 1e30))
    assert np.isfinite(model.embed(np.random.RandomState(0).rand(2, 96, 96, 3).astype(np.float32))).all()


def test_ranges_are_rounded_to_the_intended_numbers():
    assert range_of(float(np.float32(1 / 127.5)), -1) == (-1.0, 1.0)
    assert range_of(float(np.float32(1 / 255)), 0) == (0.0, 1.0)
    assert range_of(1.0, 0.0, pixels=True) == (0.0, 255.0)
    assert range_of(0.0, 1.0) is None


def test_images_from_minus_one_to_one_may_be_scaled_too():
    """(x + 1) / 2 and (x + 1) * 127.5 fill exactly their range only if x is from -1 to 1."""
    assert range_of(0.5, 0.5) == (0.0, 1.0)
    assert range_of(127.5, 127.5) == (0.0, 255.0)
    assert range_of(0.5, 0.5, pixels=True) == (0.5, 128.0)
    assert range_of(0.5, 0.5, pixels=False) == (0.5, 1.0)
