"""Decoding and resizing give TensorFlow's bits; broken pictures give one clear error."""

import io
import struct
import warnings
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_program

from fastmnv2 import image


@pytest.fixture(scope="module")
def tf():
    import tensorflow

    return tensorflow


def noise(*shape, dtype=np.uint8, seed=0):
    random = np.random.RandomState(seed)
    if dtype == np.uint8:
        return random.randint(0, 256, shape).astype(np.uint8)
    return (random.randn(*shape) * 40).astype(dtype)


def encode(array, form, **options):
    stream = io.BytesIO()
    picture = array if isinstance(array, PIL.Image.Image) else PIL.Image.fromarray(array)
    picture.save(stream, form, **options)
    return stream.getvalue()


def same_bits(left, right):
    assert left.dtype == right.dtype == np.float32
    assert left.shape == right.shape
    np.testing.assert_array_equal(left.view(np.uint32), np.ascontiguousarray(right).view(np.uint32))


def as_floats(tf, picture):
    """TensorFlow's conversion before resizing: bytes become [0,1]."""
    return tf.image.convert_image_dtype(picture, tf.float32) if picture.dtype == np.uint8 else picture


SHAPES = [(1, 1), (1, 7), (5, 1), (2, 3), (96, 96), (95, 97), (48, 192), (613, 696), (301, 17), (3, 5000)]


class TestResize:
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_tf2_equals_tensorflow(self, tf, shape, dtype):
        picture = noise(*shape, 3, dtype=dtype)
        same_bits(image.resize(picture), tf.image.resize(as_floats(tf, picture), (96, 96)).numpy())

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_tf1_equals_tensorflow(self, tf, shape, dtype):
        picture = noise(*shape, 3, dtype=dtype)
        expected = tf.raw_ops.ResizeBilinear(images=as_floats(tf, picture)[np.newaxis], size=(96, 96))[0].numpy()
        same_bits(image.resize(picture, method="tf1"), expected)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(edges=st.tuples(*[st.integers(1, 200)] * 4), seed=st.integers(0, 1000))
    def test_any_size_equals_tensorflow(self, tf, edges, seed):
        height, width, *size = edges
        picture = noise(height, width, 3, dtype=np.float32, seed=seed)
        same_bits(image.resize(picture, tuple(size)), tf.image.resize(picture, size).numpy())

    def test_batches_channels_and_dtypes(self, tf):
        for dtype in (np.uint8, np.int32, np.float16, np.float64):
            pictures = noise(2, 31, 45, 5, dtype=np.uint8).astype(dtype)
            same_bits(image.resize(pictures, (40, 20)), tf.image.resize(as_floats(tf, pictures), (40, 20)).numpy())

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_area_equals_tensorflow(self, tf, shape, dtype):
        picture = noise(*shape, 3, dtype=dtype)
        expected = tf.image.resize(as_floats(tf, picture), (96, 96), antialias=True).numpy()
        same_bits(image.resize(picture, method="area"), expected)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(edges=st.tuples(*[st.integers(1, 200)] * 4), seed=st.integers(0, 1000))
    def test_area_of_any_size_equals_tensorflow(self, tf, edges, seed):
        height, width, *size = edges
        picture = noise(height, width, 3, seed=seed)
        expected = tf.image.resize(as_floats(tf, picture), size, antialias=True).numpy()
        same_bits(image.resize(picture, tuple(size), method="area"), expected)

    @pytest.mark.parametrize("method", ["tf2", "tf1", "area"])
    @pytest.mark.parametrize("shape", [(50, 60), (301, 317), (2, 3), (1, 1)])
    def test_any_strides(self, method, shape):
        """Parts, flips and rotations of a picture are read in place. Expected: a float copy, resized by numpy."""
        wide = noise(shape[0] + 4, shape[1] + 7, 3)
        part = wide[2:-2, 3:-4]
        for view in (part, part[::-1], part[:, ::-1], part.swapaxes(0, 1), part[::-1].swapaxes(0, 1), part[::2, ::3]):
            expected = image.resize(view.astype(np.float32) * image.resizing.UNIT, method=method)
            same_bits(image.resize(view, method=method), expected)

    @pytest.mark.parametrize("method", ["tf2", "tf1", "area"])
    @pytest.mark.parametrize("band", [1, 5000, 20_000])
    def test_in_bands(self, method, band, monkeypatch):
        monkeypatch.setattr(image.resizing, "_BAND_PIXELS", band)
        for shape in ((301, 217), (40, 50), (1, 9)):
            picture = noise(*shape, 3)
            out = np.empty((96, 96, 3), np.float32)
            part = lambda *box, of=picture: of[box[0] : box[1], box[2] : box[3]]  # noqa: E731
            whole = image.resizing.Window(0, 0, *shape)
            image.resizing.resize_parts(whole, part, out, method, image.resizing.UNIT, whole=False)
            same_bits(out, image.resize(picture, method=method))

    @pytest.mark.parametrize("method", ["tf2", "tf1", "area"])
    def test_long_axes_are_resized_in_pieces(self, method, monkeypatch):
        pictures = [noise(*shape, 3) for shape in ((301, 217), (40, 500), (700, 9))]
        expected = [image.resize(picture, method=method) for picture in pictures]
        monkeypatch.setattr(image.resizing, "_LONG", 30)
        image.resizing._whole_axis.cache_clear()
        for picture, want in zip(pictures, expected, strict=True):
            same_bits(image.resize(picture, method=method), want)

    def test_resized_bytes_are_valid_input_for_embed(self, model, recwarn):
        picture = noise(200, 150, 3)
        assert 0 <= image.resize(picture).min() < image.resize(picture).max() <= 1
        want = model.embed(image.resize(picture * image.resizing.UNIT))
        assert (model.embed(image.resize(picture)) == want).all()
        assert not recwarn.list

    def test_same_size_changes_nothing(self):
        picture = noise(96, 96, 3, dtype=np.float32)
        same_bits(image.resize(picture), picture)

    def test_tf1_and_tf2_differ(self):
        picture = noise(200, 200, 3)
        assert (image.resize(picture) != image.resize(picture, method="tf1")).mean() > 0.9

    @pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((0, 4, 3)), np.zeros((1, 1, 4, 4, 3)), 3.0])
    def test_wrong_shape(self, bad):
        with pytest.raises(ValueError, match=r"image: expected shape .* got \["):
            image.resize(bad)

    @pytest.mark.parametrize("dtype", [bool, complex, object, "U1"])
    def test_wrong_dtype(self, dtype):
        with pytest.raises(TypeError, match="image: expected uint8"):
            image.resize(np.zeros((4, 4, 3), dtype))

    @pytest.mark.parametrize("size", [(0, 96), (96,), (96.0, 96), (-1, 5)])
    def test_wrong_size(self, size):
        with pytest.raises(ValueError, match="size: expected"):
            image.resize(np.zeros((4, 4, 3), np.uint8), size)

    def test_wrong_method(self):
        with pytest.raises(ValueError, match="method: expected 'tf2', 'tf1' or 'area', got 'cubic'"):
            image.resize(np.zeros((4, 4, 3), np.uint8), method="cubic")


RGB, RGBA = noise(37, 53, 3), noise(37, 53, 4)
GREY16 = np.random.RandomState(1).randint(0, 1 << 16, (37, 53)).astype(np.uint16)
PALETTE = PIL.Image.fromarray(RGB).quantize(50)
LOSSLESS = {
    "png": encode(RGB, "PNG"),
    "png with alpha": encode(RGBA, "PNG"),
    "png grey": encode(RGB[..., 0], "PNG"),
    "png grey with alpha": encode(PIL.Image.fromarray(RGBA).convert("LA"), "PNG"),
    "png of one bit": encode(PIL.Image.fromarray(RGB).convert("1"), "PNG"),
    "png with palette": encode(PALETTE, "PNG"),
    "png with transparent palette": encode(PIL.Image.fromarray(RGBA).quantize(50), "PNG"),
    "png with one transparent entry": encode(PALETTE, "PNG", transparency=3),
    "png of 16 bits, grey": encode(GREY16, "PNG"),
    "bmp": encode(RGB, "BMP"),
    "bmp with alpha": encode(RGBA, "BMP"),
    "bmp grey": encode(RGB[..., 0], "BMP"),
}


class TestRead:
    @pytest.mark.parametrize("name", LOSSLESS)
    def test_lossless_files_equal_decode_image(self, tf, name):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = image.read(io.BytesIO(LOSSLESS[name]))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, tf.io.decode_image(LOSSLESS[name], channels=3).numpy())

    @pytest.mark.parametrize("channels", [2, 3, 4])
    def test_16_bits_keep_the_high_eight(self, tf, channels):
        values = np.random.RandomState(2).randint(0, 1 << 16, (9, 11, channels)).astype(np.uint16)
        data = tf.io.encode_png(values).numpy()
        np.testing.assert_array_equal(image.read(io.BytesIO(data)), tf.io.decode_image(data, channels=3).numpy())

    @pytest.mark.parametrize("picture", [RGB, RGB[..., 0]], ids=["rgb", "grey"])
    def test_jpeg_equals_the_accurate_decoder(self, tf, picture):
        data = encode(picture, "JPEG", quality=85)
        expected = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
        np.testing.assert_array_equal(image.read(io.BytesIO(data)), expected)

    def test_webp(self):
        np.testing.assert_array_equal(image.read(io.BytesIO(encode(RGB, "WEBP", lossless=True))), RGB)

    def test_cmyk_jpeg_becomes_rgb(self):
        data = encode(PIL.Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
        red = image.read(io.BytesIO(data))
        assert red.shape == (16, 16, 3)
        assert (np.abs(red.astype(int) - [255, 0, 0]) <= 3).all()

    def test_exif_orientation_only_if_asked_for(self):
        exif = PIL.Image.Exif()
        exif[0x0112] = 6  # rotate 90 degrees clockwise to display
        data = encode(RGB, "PNG", exif=exif)
        np.testing.assert_array_equal(image.read(io.BytesIO(data)), RGB)
        np.testing.assert_array_equal(image.read(io.BytesIO(data), exif=True), np.rot90(RGB, -1))

    def test_paths_are_read_and_the_result_is_writable(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(LOSSLESS["png"])
        for name in (path, str(path)):
            found = image.read(name)
            np.testing.assert_array_equal(found, RGB)
            assert found.flags.writeable
            assert found.flags.c_contiguous

    @pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP"])
    @pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
    def test_truncated(self, tmp_path, form, kept):
        data = encode(RGB, form)
        path = tmp_path / "cut.bin"
        path.write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(ValueError, match=r"cut\.bin: (a broken or truncated picture|expected a)"):
            image.read(path)

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(
        name=st.sampled_from(["png", "bmp", "jpeg", "webp"]),
        changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8),
    )
    def test_damaged_files_give_a_picture_or_a_value_error(self, name, changes):
        data = bytearray(encode(RGB, name.upper()))
        for place, value in changes:
            data[place % len(data)] = value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = image.read(io.BytesIO(bytes(data)), max_pixels=1 << 20)
            except ValueError as error:
                assert "<BytesIO>: " in str(error)  # noqa: PT017
            else:
                assert found.dtype == np.uint8
                assert found.shape[2:] == (3,)

    @pytest.mark.parametrize("data", [b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n", encode(RGB, "SGI"), encode(RGB, "TGA")])
    def test_other_files_are_refused(self, tmp_path, data):
        path = tmp_path / "other.jpg"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"other\.jpg: expected a JPEG, PNG, .* or HEIC picture, got something"):
            image.read(path)

    def test_an_empty_file(self, tmp_path):
        path = tmp_path / "empty.jpg"
        path.touch()
        with pytest.raises(ValueError, match=r"empty\.jpg: expected a picture, got an empty file"):
            image.read(path)

    @pytest.mark.parametrize("edge", [10_000, 100_000])
    def test_bombs_are_refused_before_they_are_decoded(self, tmp_path, edge):
        def chunk(kind, body):
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        header = chunk(b"IHDR", struct.pack(">IIBBBBB", edge, edge, 8, 2, 0, 0, 0))
        rows = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        path = tmp_path / "bomb.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b""))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ValueError, match=r"bomb\.png: .*pixels"):
                image.read(path)

    def test_exactly_max_pixels_are_accepted(self):
        data = io.BytesIO(LOSSLESS["png"])
        assert image.read(data, max_pixels=37 * 53).shape == (37, 53, 3)
        with pytest.raises(ValueError, match="at most 1960 pixels, got 53 x 37"):
            image.read(io.BytesIO(LOSSLESS["png"]), max_pixels=37 * 53 - 1)

    def test_folders_and_missing_files(self, tmp_path):
        with pytest.raises(ValueError, match="expected a picture, got a folder"):
            image.read(tmp_path)
        with pytest.raises(FileNotFoundError):
            image.read(tmp_path / "none.png")


class TestLoadImage:
    @pytest.mark.parametrize("name", LOSSLESS)
    @pytest.mark.parametrize("method", ["tf2", "tf1"])
    def test_equals_the_tensorflow_pipeline(self, tf, name, method):
        picture = tf.image.convert_image_dtype(
            tf.io.decode_image(LOSSLESS[name], channels=3, expand_animations=False), tf.float32
        )
        centred = method == "tf2"
        expected = tf.raw_ops.ResizeBilinear(images=picture[tf.newaxis], size=(96, 96), half_pixel_centers=centred)
        same_bits(image.load_image(io.BytesIO(LOSSLESS[name]), method=method), expected[0].numpy())

    def test_equals_tf_image_resize_on_a_photo(self, tf, photos):
        path = photos / "coffee.png"
        picture = tf.io.decode_image(path.read_bytes(), channels=3)
        expected = tf.image.resize(tf.image.convert_image_dtype(picture, tf.float32), (96, 96))
        same_bits(image.load_image(path, exif=False), expected.numpy())

    def test_range(self):
        white = image.load_image(io.BytesIO(encode(np.full((7, 9, 3), 255, np.uint8), "PNG")))
        assert white.shape == (96, 96, 3)
        assert (white == 1).all()


def test_resize_needs_numpy_only():
    done = run_program("without_pillow", __file__)
    assert done.stdout.strip() == "reading pictures needs Pillow: pip install 'fastmnv2[images]'"
