"""`embed`, `logits`, `classify` and `endpoints` take valid arguments and refuse invalid ones with one clear error."""

import array
import pickle
import warnings

import numpy as np
import pytest

import fastmnv2


def test_shapes_and_types(model, images):
    features = model.embed(images)
    assert features.shape == (len(images), 1280)
    assert features.dtype == np.float32
    single = model.embed(images[3])
    assert single.shape == (1280,)
    assert (single == features[3]).all()
    empty = model.embed(images[:0])
    assert empty.shape == (0, 1280)
    assert empty.dtype == np.float32


def test_features_are_in_the_range_of_relu6_and_differ_between_images(model, images):
    features = model.embed(images)
    assert features.min() >= 0
    assert features.max() <= 6
    assert len(np.unique(features, axis=0)) == len(images)


def test_module_level_embed_uses_the_named_weights(model, untrained_native, images):
    assert (fastmnv2.embed(images[:2], weights=untrained_native) == model.embed(images[:2])).all()
    assert (fastmnv2.embed(images[:2], weights=model) == model.embed(images[:2])).all()
    assert (fastmnv2.embed(images[:2], weights="untrained") == model.embed(images[:2])).all()


def test_embed_without_weights_never_falls_back_to_untrained(images):
    with pytest.raises(fastmnv2.WeightsUnavailable):
        fastmnv2.embed(images)


def test_uint8_is_scaled_as_tensorflow_scales_it(model, images):
    pixels = np.arange(256, dtype=np.uint8).repeat(108).reshape(1, 96, 96, 3)
    scaled = pixels * np.float32(1 / 255)
    assert scaled.dtype == np.float32
    assert (model.embed(pixels) == model.embed(scaled)).all()
    noise = (images * 255).astype(np.uint8)
    assert (model.embed(noise) == model.embed(noise * np.float32(1 / 255))).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.longdouble, ">f4", ">f8"])
def test_other_floats_are_converted(model, images, dtype):
    converted = images.astype(dtype)
    assert (model.embed(converted) == model.embed(converted.astype(np.float32))).all()


def test_bfloat16_is_converted(model, images):
    import ml_dtypes

    converted = images.astype(ml_dtypes.bfloat16)
    assert (model.embed(converted) == model.embed(converted.astype(np.float32))).all()


def test_any_layout_in_memory(model, images):
    want = model.embed(images)
    readonly = images.copy()
    readonly.flags.writeable = False
    wide = np.zeros((len(images), 96, 192, 3), np.float32)
    wide[:, :, ::2] = images
    misaligned = np.zeros(images.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(images.shape)
    misaligned[...] = images
    layouts = {
        "read-only": readonly,
        "Fortran": np.asfortranarray(images),
        "strided": wide[:, :, ::2],
        "reversed": images[::-1, ::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1, ::-1],
        "misaligned": misaligned,
        "channels first, transposed": np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1),
    }
    for name, layout in layouts.items():
        assert (model.embed(layout) == want).all(), name


class _OnlyArray:
    def __init__(self, data):
        self._data = data

    def __array__(self, dtype=None, copy=None):
        return self._data if dtype is None else self._data.astype(dtype)


class _OnlyDLPack:
    def __init__(self, data):
        self._data = data

    def __dlpack__(self, **kwargs):
        return self._data.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._data.__dlpack_device__()


def test_anything_that_holds_an_array(model, images):
    want = model.embed(images)
    assert (model.embed(memoryview(images)) == want).all()
    assert (model.embed(_OnlyArray(images)) == want).all()
    assert (model.embed(_OnlyDLPack(images)) == want).all()
    assert (model.embed(list(images)) == want).all()
    flat = array.array("f", images.tobytes())
    assert (model.embed(memoryview(flat).cast("B").cast("f", images.shape)) == want).all()


def test_tensorflow_tensors(model, images):
    import tensorflow as tf

    assert (model.embed(tf.constant(images)) == model.embed(images)).all()


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (np.zeros((96, 96), np.float32), ValueError, r"\[96, 96\]"),
        (np.zeros((1, 1, 96, 96, 3), np.float32), ValueError, r"\[1, 1, 96, 96, 3\]"),
        (np.zeros((2, 224, 224, 3), np.float32), ValueError, r"\[2, 224, 224, 3\].*resize"),
        (np.zeros((2, 96, 96, 4), np.uint8), ValueError, r"\[2, 96, 96, 4\]"),
        (np.zeros((2, 96, 96, 1), np.uint8), ValueError, r"\[2, 96, 96, 1\]"),
        (np.zeros((2, 3, 96, 96), np.float32), ValueError, r"\[2, 3, 96, 96\].*channels come last"),
        (np.zeros((0,), np.float32), ValueError, r"\[0\]"),
        (np.zeros((1, 96, 96, 3), np.int64), TypeError, "int64"),
        (np.zeros((1, 96, 96, 3), np.int8), TypeError, "int8"),
        (np.zeros((1, 96, 96, 3), bool), TypeError, "bool"),
        (np.zeros((1, 96, 96, 3), np.complex64), TypeError, "complex64"),
        (np.zeros((1, 96, 96, 3), object), TypeError, "object"),
        (np.zeros((1, 96, 96, 3), "U1"), TypeError, "<U1"),
        ("picture.jpg", TypeError, "str"),
        (None, TypeError, "NoneType"),
        (3.0, TypeError, "float"),
        ([[1], [2, 3]], TypeError, "list"),
    ],
)
def test_wrong_images_name_what_was_expected_and_what_came(model, wrong, error, message):
    with pytest.raises(error, match=message) as caught:
        model.embed(wrong)
    assert "[96, 96, 3]" in str(caught.value) or "float32" in str(caught.value)


def test_out_is_written_in_place_and_returned(model, images):
    want = model.embed(images)
    out = np.full((len(images), 1280), -1, np.float32)
    assert model.embed(images, out=out) is out
    assert (out == want).all()
    row = np.full(1280, -1, np.float32)
    assert model.embed(images[0], out=row) is row
    assert (row == want[0]).all()
    middle = np.full((len(images) + 2, 1280), -1, np.float32)
    model.embed(images, out=middle[1:-1])
    assert (middle[1:-1] == want).all()
    assert (middle[[0, -1]] == -1).all()


def _readonly():
    out = np.zeros((2, 1280), np.float32)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.zeros((3, 1280), np.float32), ValueError, r"\[2, 1280\], got \[3, 1280\]"),
        (np.zeros((1280,), np.float32), ValueError, r"\[2, 1280\], got \[1280\]"),
        (np.zeros((2, 1280), np.float64), TypeError, "float64"),
        (np.zeros((2, 1280), ">f4"), TypeError, ">f4"),
        (np.zeros((1280, 2), np.float32).T, ValueError, "contiguous"),
        (np.zeros((2, 2560), np.float32)[:, ::2], ValueError, "contiguous"),
        (_readonly(), ValueError, "read-only"),
        ([[0.0] * 1280] * 2, TypeError, "list"),
    ],
)
def test_wrong_out_is_refused_before_anything_is_computed(model, images, out, error, message):
    with pytest.raises(error, match=message):
        model.embed(images[:2], out=out)
    assert not np.any(out)


def test_normalize_scales_to_length_one(model, images):
    plain = model.embed(images).astype(np.float64)
    unit = model.embed(images, normalize=True)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, plain / np.sqrt((plain**2).sum(1, keepdims=True)), rtol=1e-6)
    assert np.abs(np.linalg.norm(unit.astype(np.float64), axis=1) - 1).max() < 1e-6
    out = np.empty_like(unit)
    assert model.embed(images, out=out, normalize=True) is out
    assert (out == unit).all()
    assert (fastmnv2.embed(images, weights=model, normalize=True) == unit).all()
    assert (model.embed(images) == plain).all()
    for i, image in enumerate(images):  # the same bits alone and in a batch
        assert (model.embed(image, normalize=True) == unit[i]).all()
        assert (model.embed(image, out=np.empty(1280, np.float32), normalize=True) == unit[i]).all()


def test_normalize_leaves_zeros_and_nan_alone(images):
    from dataclasses import replace

    from fastmnv2.weights.fold import fold
    from fastmnv2.weights.untrained import untrained

    folded = fold(untrained())
    last = folded.tensors["MobilenetV2/Conv_1/biases"] - 1e6
    dead = fastmnv2.Model(replace(folded, tensors=folded.tensors | {"MobilenetV2/Conv_1/biases": last}))
    spoiled = images[:2].copy()
    spoiled[1, 0, 0, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = dead.embed(spoiled, normalize=True)
    assert (features[0] == 0).all()
    assert np.isnan(features[1]).all()


def test_torch_tensors_of_every_kind(model, images):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(images[:2].copy())
    want = model.embed(images[:2])
    assert (model.embed(tensor) == want).all()
    assert (model.embed(tensor.clone().requires_grad_()) == want).all()
    half = tensor.to(torch.bfloat16)
    for odd in (half, half.clone().requires_grad_()):
        assert (model.embed(odd) == model.embed(half.float().numpy())).all()
    assert (model.embed(tensor.half()) == model.embed(images[:2].astype(np.float16))).all()


def test_overlap_of_out_and_images_is_refused(model, images):
    block = np.zeros(4 * 96 * 96 * 3, np.float32)
    batch = block.reshape(4, 96, 96, 3)
    batch[...] = images[:4]
    with pytest.raises(ValueError, match="overlap"):
        model.embed(batch, out=block[: 4 * 1280].reshape(4, 1280))
    assert (batch == images[:4]).all()


def test_nan_stays_with_its_image(model, images):
    want = model.embed(images)
    for pixel in [(0, 0), (95, 95), (0, 95), (50, 31)]:
        spoiled = images.copy()
        spoiled[4, pixel[0], pixel[1], 1] = np.nan
        for threads in (1, 2, 16):
            got = model.embed(spoiled, threads=threads)
            assert np.isnan(got[4]).all(), pixel
            assert (np.delete(got, 4, 0) == np.delete(want, 4, 0)).all(), pixel


@pytest.mark.parametrize("change", [lambda x: x * 255, lambda x: x * 2 - 1], ids=["0..255", "-1..1"])
def test_float_images_of_another_range_warn_once(untrained_native, images, change):
    fresh = fastmnv2.load(untrained_native)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fresh.embed(images)
        fresh.embed((images * 255).astype(np.uint8))
        assert not caught
        fresh.embed(change(images))
        fresh.embed(change(images))
    assert len(caught) == 1
    assert "[0, 1]" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_a_little_overshoot_does_not_warn(untrained_native, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastmnv2.load(untrained_native).embed(images * 1.4 - 0.2)


def test_expected_image_size():
    assert fastmnv2.get_expected_image_size() == (96, 96)


def test_logits_and_classes_agree(model, images):
    logits = model.logits(images)
    assert logits.shape == (len(images), 1001)
    indices, probabilities = model.classify(images, top=3)
    assert indices.shape == probabilities.shape == (len(images), 3)
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    want = powers / powers.sum(1, keepdims=True)
    assert (indices[:, 0] == logits.argmax(1)).all()
    np.testing.assert_allclose(probabilities, np.take_along_axis(want, indices, 1), rtol=1e-6)
    assert (np.diff(probabilities, axis=1) <= 0).all()
    one_index, one_probability = model.classify(images[2], top=1001)
    assert one_index.shape == (1001,)
    assert (one_index[:3] == indices[2]).all()
    assert abs(one_probability.sum() - 1) < 1e-5
    assert (model.logits(images[2]) == logits[2]).all()


@pytest.mark.parametrize("top", [0, 1002, -1, 2.5, "5"])
def test_wrong_top(model, images, top):
    with pytest.raises(ValueError, match="top: expected an int from 1 to 1001"):
        model.classify(images, top=top)


def test_endpoints_are_the_steps_of_embed(model, images):
    everything = model.endpoints(images[:3])
    assert len(everything) == 71
    assert (everything["default"] == model.embed(images[:3])).all()
    assert everything["MobilenetV2/layer_4/depthwise_output"].shape == (3, 24, 24, 144)
    assert everything["MobilenetV2/global_pool"].shape == (3, 1, 1, 1280)
    some = model.endpoints(images[1], ["MobilenetV2/layer_19", "default"])
    assert list(some) == ["MobilenetV2/layer_19", "default"]
    assert some["MobilenetV2/layer_19"].shape == (3, 3, 1280)
    assert (some["MobilenetV2/layer_19"] == everything["MobilenetV2/layer_19"][1]).all()
    with pytest.raises(ValueError, match="layer_99"):
        model.endpoints(images[0], ["MobilenetV2/layer_99"])


def test_a_batch_computed_in_parts_gives_the_same(model, images, monkeypatch):
    """A long batch is computed in parts, and every output is joined from them."""
    batch = np.concatenate([images] * 4)
    byte_images = (batch * 255).astype(np.uint8)
    names = ["default", "MobilenetV2/layer_19", "MobilenetV2/layer_4/depthwise_output"]
    want = model.embed(batch), model.embed(byte_images), model.logits(batch), model.endpoints(batch, names)
    parted = pickle.loads(pickle.dumps(model))
    parted._first = 3
    monkeypatch.setattr("fastmnv2.core.model._LOGITS_PART", 7)
    monkeypatch.setattr("fastmnv2.core.model._PART_SECONDS", 1e-9)
    got = parted.embed(batch), parted.embed(byte_images), parted.logits(batch), parted.endpoints(batch, names)
    assert all((one == other).all() for one, other in zip(got[:3], want[:3], strict=True))
    assert all((got[3][name] == want[3][name]).all() for name in names)
    with pytest.warns(UserWarning, match="expected float values"):
        parted.embed(np.concatenate([batch, batch[:1] * 255]))


def test_model_is_immutable(model):
    with pytest.raises(AttributeError):
        model.isa = "other"
    model.weights["notes"].append("changed")
    assert "changed" not in model.weights["notes"]
