"""A picture's pixels bound the work and memory, no matter what its file demands; docs/pictures.md has the figures."""

import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import PIL.Image
import pytest
from processes import run_program

from fastmnv2 import image
from fastmnv2.image import jpeg, limits, resizing
from fastmnv2.image.options import Options


def encoded(picture, form, **options):
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def is_writable(form):
    PIL.Image.init()
    return form in PIL.Image.SAVE


def progressive(scans, mode="L"):
    """A progressive JPEG whose last scan is repeated until it has this many scans."""
    data = encoded(PIL.Image.new(mode, (64, 64)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * (scans - jpeg._count_scans(data)) + data[-2:]


class TestScans:
    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_the_most_scans_that_are_accepted(self, mode):
        expected = image.read(progressive(20, mode))
        np.testing.assert_array_equal(image.read(progressive(jpeg.MAX_SCANS, mode)), expected)
        for scans in (jpeg.MAX_SCANS + 1, 5000):
            data = progressive(scans, mode)
            for item in (data, io.BytesIO(data), PIL.Image.open(io.BytesIO(data))):
                with pytest.raises(ValueError, match="expected a JPEG of at most 64 scans, got more"):
                    image.read(item)

    def test_without_simplejpeg(self, monkeypatch):
        monkeypatch.setattr(jpeg, "_simplejpeg", lambda: None)
        with pytest.raises(ValueError, match="at most 64 scans"):
            image.read(progressive(65))

    def test_bytes_that_only_look_like_a_scan(self):
        """Markers in thumbnails, in comments or after the end are not scans; neither are fill bytes and restarts."""
        data = encoded(PIL.Image.effect_noise((300, 200), 90), "JPEG", restart_marker_blocks=1)
        segment = b"\xff\xe5" + (2 + 400).to_bytes(2, "big") + b"\xff\xda" * 200
        odd = data[:2] + segment + b"\xff" * 9 + data[2:] + b"\xff\xda\0\0" * 99
        assert odd.count(b"\xff\xda") > jpeg.MAX_SCANS
        assert jpeg._count_scans(odd) == jpeg._count_scans(data) == 1
        np.testing.assert_array_equal(image.read(odd), image.read(data))


class TestFormats:
    """Decoders that take more than 4 bytes per pixel may decode fewer pixels."""

    @pytest.mark.parametrize(("form", "each"), [("WEBP", 16), ("AVIF", 12), ("JPEG", 10), ("PNG", 4), ("BMP", 4)])
    def test_the_same_memory_for_all(self, form, each):
        if not is_writable(form):
            pytest.skip(f"this Pillow has no {form}")
        data = encoded(PIL.Image.new("RGB", (60, 40)), form, **({"progressive": True} if form == "JPEG" else {}))
        least = max(2400, -(-2400 * each // 6))
        assert image.read(data, max_pixels=least).shape == (40, 60, 3)
        message = "at most 2399 pixels" if least == 2400 else "bytes for each of max_pixels"
        for item in (data, PIL.Image.open(io.BytesIO(data))):
            with pytest.raises(ValueError, match=message):
                image.read(item, max_pixels=least - 1)

    def test_a_webp_of_8190_by_8190(self):
        data = encoded(PIL.Image.new("RGB", (8190, 8190)), "WEBP", quality=0, method=0)
        with pytest.raises(ValueError, match=r"WEBP picture of 8190 x 8190 pixels takes 1023 MB, expected at most 384"):
            image.read(data)

    def test_a_decoded_picture_needs_no_more_memory(self):
        opened = PIL.Image.open(io.BytesIO(encoded(PIL.Image.new("RGB", (60, 40)), "WEBP")))
        opened.load()
        assert image.read(opened, max_pixels=2400).shape == (40, 60, 3)

    def test_strips_of_compressed_tiffs(self):
        options = Options(max_pixels=2400)
        for strip, message in ((64, None), (1 << 20, "TIFF picture of 60 x 40")):
            data = encoded(PIL.Image.new("RGB", (60, 40)), "TIFF", compression="tiff_lzw", strip_size=strip)
            if message is None:
                assert image.read(data, max_pixels=options.max_pixels).shape == (40, 60, 3)
            else:
                with pytest.raises(limits.TooLarge, match=message):
                    image.read(data, max_pixels=options.max_pixels)

    def test_icons_whose_size_differs_from_their_header(self):
        inner = encoded(PIL.Image.new("RGB", (300, 200)), "PNG")
        entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
        with pytest.raises(ValueError, match="at most 50000 pixels, got 300 x 200"):
            image.read(struct.pack("<HHH", 0, 1, 1) + entry + inner, max_pixels=50_000)


def png(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * ((width + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class TestLongAxes:
    @pytest.mark.parametrize("method", ["tf2", "tf1", "area"])
    @pytest.mark.parametrize(
        ("dtype", "width"), [pytest.param(np.uint8, 10_000_000, marks=pytest.mark.slow), (np.float32, 200_000)]
    )
    def test_memory_of_arrays(self, method, dtype, width):
        """All weights of the first picture at once would take 80 MB; all columns of the second, 230 MB."""
        wide = np.broadcast_to(dtype(1), (1, width, 3))
        tracemalloc.start()
        try:
            for turned in (wide, wide.swapaxes(0, 1)):
                found = image.resize(turned, method=method)
                np.testing.assert_allclose(found, 1 / 255 if dtype == np.uint8 else 1, rtol=1e-3)
            assert tracemalloc.get_traced_memory()[1] < 60 << 20
        finally:
            tracemalloc.stop()

    def test_few_rows_are_converted_once(self):
        """Parts overlap with their neighbours, so each pixel is converted about twice."""
        asked = []

        def part(top, bottom, left, right):
            asked.append((bottom - top) * (right - left))
            return np.zeros((bottom - top, right - left, 3), np.uint8)

        out = np.empty((96, 8, 3), np.float32)
        of = resizing.Window(0, 0, 3, 600_000)
        resizing.resize_parts(of, part, out, "area", resizing.UNIT, whole=False)
        assert sum(asked) < 3 * 3 * 600_000

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.parametrize("shape", [(2, 40_000), (40_000, 2), (300, 20_000)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_long_axes_equal_tensorflow(self, dtype, shape, channels):
        tf = pytest.importorskip("tensorflow")
        picture = np.random.RandomState(0).randint(0, 256, (*shape, channels)).astype(dtype)
        floats = tf.image.convert_image_dtype(picture, tf.float32) if dtype == np.uint8 else picture
        expected = tf.image.resize(floats, (96, 96), antialias=True).numpy()
        np.testing.assert_array_equal(image.resize(picture, method="area"), expected)
        if channels == 1 and dtype == np.uint8:
            grey = np.broadcast_to(picture, (*shape, 3))
            np.testing.assert_array_equal(image.resize(grey, method="area"), np.broadcast_to(expected, (96, 96, 3)))

    @pytest.mark.parametrize("method", ["tf2", "area"])
    def test_nothing_large_is_cached(self, model, method):
        tracemalloc.start()
        try:
            for width in range(1_000_000, 1_000_005):
                model.embed_images([png(width, 1)], method=method)
            kept, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 4 << 20
        assert peak < 40 << 20

    def test_the_cache_is_bounded(self):
        """Resize 80 of the longest axes that are cached; the cache keeps 64."""
        resizing._whole_axis.cache_clear()
        for width in range(resizing._LONG - 80, resizing._LONG):
            resizing._pieces(width, 96, "area", resizing._LONG)
        found = resizing._whole_axis.cache_info()
        assert found.currsize == found.maxsize == 64
        assert resizing._pieces(resizing._LONG + 1, 96, "area", resizing._LONG + 9)
        assert resizing._whole_axis.cache_info().misses == 80


@pytest.mark.slow
@pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="only Linux reports the peak of a process's memory"
)
@pytest.mark.parametrize(
    ("form", "mode", "options", "each"),
    [
        ("JPEG", "RGB", {}, 4),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}, 10),
        ("PNG", "RGBA", {"compress_level": 1}, 4),
        ("GIF", "P", {}, 4),
        ("BMP", "RGB", {}, 4),
        ("TIFF", "RGB", {}, 4),
        ("WEBP", "RGBA", {"quality": 10, "method": 0}, 16),
        ("AVIF", "RGBA", {"quality": 10, "speed": 10}, 12),
        ("HEIF", "RGB", {"quality": 10}, 8.5),
    ],
)
def test_memory_per_picture_is_as_documented(untrained_native, tmp_path, form, mode, options, each):
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if not is_writable(form):
        pytest.skip(f"this Pillow has no {form}")
    path = tmp_path / "picture"
    PIL.Image.effect_noise((300, 200), 60).convert(mode).resize((3000, 2000)).save(path, form, **options)
    for method in ("tf2", "area"):
        done = run_program("peak_of_pictures", untrained_native, path, method)
        assert float(done.stdout) < 1.05 * each * 6e6 + path.stat().st_size + 8e6, method


def test_the_default_accepts_the_pictures_of_cameras():
    """50 megapixels from a phone as HEIC, and 25 megapixels from a camera as WebP or AVIF."""
    for kind, height, width in (("HEIF", 6048, 8064), ("WEBP", 4096, 6144), ("AVIF", 4096, 6144), (None, 8192, 8192)):
        limits.check("a", height, width, Options(), kind)
