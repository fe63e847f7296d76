"""``crop="center"``: the largest centred window of the target's shape, resized as if it were the whole picture."""

import io

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmnv2 import image
from fastmnv2.image import decode, resizing
from fastmnv2.image.options import Options

METHODS = ["tf2", "tf1", "area"]


def noise(*shape):
    return np.random.RandomState(sum(shape)).randint(0, 256, shape).astype(np.uint8)


def encoded(array, form, **options):
    stream = io.BytesIO()
    PIL.Image.fromarray(array).save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("shape", "size", "window"),
    [
        ((100, 300), (96, 96), (0, 100, 100, 100)),
        ((101, 300), (96, 96), (0, 99, 101, 101)),
        ((300, 101), (96, 96), (99, 0, 101, 101)),
        ((50, 50), (96, 96), (0, 0, 50, 50)),
        ((480, 640), (128, 256), (80, 0, 320, 640)),
        ((640, 480), (256, 128), (0, 80, 640, 320)),
        ((300, 101), (3, 2), (74, 0, 152, 101)),  # 151.5 rows
        ((101, 300), (2, 3), (0, 74, 101, 152)),
        ((1, 1000), (96, 96), (0, 499, 1, 1)),
        ((1, 1000), (32, 512), (0, 492, 1, 16)),
        ((1000, 1), (32, 512), (499, 0, 1, 1)),  # at least one row
    ],
)
def test_the_window(shape, size, window):
    assert resizing.window(shape, size, "center") == window
    assert resizing.window(shape, size, None) == (0, 0, *shape)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(shape=st.tuples(*[st.integers(1, 5000)] * 2), size=st.tuples(*[st.integers(32, 512)] * 2))
def test_the_window_fits_and_is_as_large_as_can_be(shape, size):
    top, left, height, width = resizing.window(shape, size, "center")
    assert height == shape[0] or width == shape[1]
    assert 0 < height <= shape[0]
    assert 0 < width <= shape[1]
    assert (top, left) == ((shape[0] - height) // 2, (shape[1] - width) // 2)
    assert min(abs(height - width * size[0] / size[1]), abs(width - height * size[1] / size[0])) <= 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(96, 96), (64, 160)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_window_is_resized(method, size, dtype):
    picture = noise(211, 340, 3).astype(dtype)
    top, left, height, width = resizing.window(picture.shape[:2], size, "center")
    expected = image.resize(picture[top : top + height, left : left + width].copy(), size, method=method)
    np.testing.assert_array_equal(image.resize(picture, size, method=method, crop="center"), expected)
    assert (image.resize(picture, size, method=method) != expected).any()


def test_squares_equal_tensorflows_own_crop():
    tf = pytest.importorskip("tensorflow")
    for shape in ((50, 91), (90, 51), (70, 70)):
        picture = noise(*shape, 3)
        cut = tf.image.resize_with_crop_or_pad(picture, min(shape), min(shape))
        expected = tf.image.resize(tf.image.convert_image_dtype(cut, tf.float32), (96, 96)).numpy()
        np.testing.assert_array_equal(image.resize(picture, crop="center"), expected)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("band", [500, 1 << 18])
def test_files_are_turned_first(form, orientation, band, monkeypatch):
    monkeypatch.setattr(resizing, "_BAND_PIXELS", band)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(60, 111, 3), form, exif=exif)
    with PIL.Image.open(io.BytesIO(data)) as opened:
        shown = np.asarray(PIL.ImageOps.exif_transpose(opened))
    for method in METHODS:
        expected = image.resize(shown, (40, 32), method=method, crop="center")
        np.testing.assert_array_equal(image.load_image(data, (40, 32), method=method, crop="center"), expected)


def test_scaled_decoding_leaves_twice_the_target_in_the_window():
    data = encoded(noise(400, 1700, 3), "JPEG")
    assert decode.open_picture(data, Options(decode="scaled", crop="center")).height == 200
    assert decode.open_picture(data, Options(decode="scaled", size=(224, 224))).height == 400
    assert decode.open_picture(data, Options(decode="scaled", size=(100, 400))).height == 200


def test_every_kind_of_item_gives_the_same(model, tmp_path):
    picture = noise(120, 200, 3)
    path = tmp_path / "a.png"
    PIL.Image.fromarray(picture).save(path)
    expected = model.embed(image.resize(picture, crop="center"))
    items = [path, path.read_bytes(), PIL.Image.open(path), picture, np.dstack([picture, picture[..., :1]])]
    for source in (items, iter(items)):
        found = model.embed_images(source, crop="center", threads=2)
        assert (found == expected).all()
    assert all((vector == expected).all() for _, vector in model.iter_embed_images([path, path], crop="center"))
    assert (model.embed_images([path]) != expected).any()


@pytest.mark.parametrize("bad", ["centre", True, (3, 3)])
def test_other_crops_are_refused(bad):
    with pytest.raises(ValueError, match="crop: expected None or 'center', got"):
        Options(crop=bad)
    with pytest.raises(ValueError, match="crop: expected None or 'center', got"):
        image.resize(noise(4, 4, 3), crop=bad)
