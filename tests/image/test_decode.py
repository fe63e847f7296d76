"""Pictures of every kind decode as documented, and to the same bits with and without simplejpeg."""

import base64
import hashlib
import io
import os
import warnings

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from fastmnv2 import image
from fastmnv2.image import decode, jpeg, pillow
from fastmnv2.image.decode import Options, open_picture


def picture(width, height, mode="RGB"):
    random = np.random.RandomState(width + height)
    coarse = random.randint(0, 256, (max(2, height // 5), max(2, width // 5), 3)).astype(np.uint8)
    return PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC).convert(mode)


def encoded(source, form, **options):
    stream = io.BytesIO()
    source.save(stream, form, **options)
    return stream.getvalue()


def jpegs():
    """Every sampling, sequential and progressive, with restart markers, grey, CMYK, RGB; small and odd sizes."""
    for size in ((1, 1), (8, 8), (17, 33), (53, 37), (100, 64), (255, 31)):
        whole = picture(*size)
        for quality in (30, 92):
            for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2}, {"optimize": True}):
                for sampling in ("4:4:4", "4:2:2", "4:2:0"):
                    yield encoded(whole, "JPEG", quality=quality, subsampling=sampling, **options)
            for mode in ("L", "CMYK"):
                yield encoded(whole.convert(mode), "JPEG", quality=quality)
            yield encoded(whole, "JPEG", quality=quality, keep_rgb=True)


def strange_jpegs():
    """JPEGs with many kinds of damage, or with trailing data."""
    random = np.random.RandomState(8)
    data = encoded(picture(64, 48), "JPEG", quality=80)
    yield data + b"something else"
    yield data.replace(b"\xff\xda", b"\xff\xff\xff\xda", 1)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[random.randint(2, len(data))] = random.randint(256)
        yield bytes(damaged)
    for at in range(20, data.index(b"\xff\xda")):  # impossible lengths of segments
        if data[at - 2] == 0xFF and data[at - 1] in (0xC0, 0xC4, 0xDB):
            yield data[:at] + bytes([0, at % 2]) + data[at + 2 :]
    for size in range(2, len(data), 97):
        yield data[:size]


@pytest.fixture
def without_simplejpeg(monkeypatch):
    def switch(off):
        monkeypatch.setattr(jpeg, "_simplejpeg", (lambda: None) if off else original)

    original = jpeg._simplejpeg
    return switch


def outcome(data, **options):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = open_picture(data, Options(**options))
            return np.ascontiguousarray(found.part(0, found.height, 0, found.width))
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("files", [jpegs, strange_jpegs])
@pytest.mark.parametrize("scaled", ["exact", "scaled"])
def test_the_same_with_and_without_simplejpeg(without_simplejpeg, files, scaled):
    pytest.importorskip("simplejpeg")
    for data in files():
        found = []
        for off in (False, True):
            without_simplejpeg(off)
            found.append(outcome(data, decode=scaled))
        if isinstance(found[1], str):
            assert found[0] == found[1]
        else:
            np.testing.assert_array_equal(found[0], found[1])
            if scaled == "exact":
                with PIL.Image.open(io.BytesIO(data)) as opened:
                    np.testing.assert_array_equal(found[1], np.asarray(opened.convert("RGB")))


def test_simplejpeg_is_used_where_it_is_installed(monkeypatch):
    """Checks that the tests above compare two decoders, not Pillow with itself."""
    simplejpeg = pytest.importorskip("simplejpeg")
    calls = []
    original = simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg", lambda *args, **options: calls.append(1) or original(*args, **options)
    )
    for data in jpegs():
        outcome(data)
    assert len(calls) == 6 * 2 * (4 * 3 + 2)  # all but CMYK


@pytest.mark.parametrize("size", [(640, 480), (383, 900), (1601, 1205), (2500, 1700)])
def test_scaled_stays_at_least_twice_the_target(without_simplejpeg, size):
    data = encoded(picture(*size), "JPEG")
    for off in (False, True):
        without_simplejpeg(off)
        found = open_picture(data, Options(decode="scaled"))
        shrink = round(size[0] / found.width)
        assert shrink == max(s for s in (1, 2, 4, 8) if min(size) // s >= 192 or s == 1)
        assert min(found.height, found.width) >= 192


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_rotated(without_simplejpeg, orientation, form):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(50, 31), form, exif=exif)
    with PIL.Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(PIL.ImageOps.exif_transpose(opened))
    for off in (False, True):
        without_simplejpeg(off)
        np.testing.assert_array_equal(image.read(data, exif=True), expected)
        for method in ("tf2", "area"):
            out = np.empty((96, 96, 3), np.float32)
            image.resizing.resize_array(expected, out, method, image.resizing.UNIT)
            np.testing.assert_array_equal(image.load_image(data, method=method), out)


def test_orientation_after_a_thumbnail_that_looks_like_a_scan():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    plain = encoded(picture(20, 10), "JPEG", exif=exif)
    app = b"\xff\xed" + (2 + 6).to_bytes(2, "big") + b"\xff\xda\x00\x08xx"
    np.testing.assert_array_equal(image.read(plain[:2] + app + plain[2:], exif=True), image.read(plain, exif=True))
    assert image.read(plain, exif=True).shape == (20, 10, 3)


class TestKinds:
    """``fastmnv2.image.read`` for pictures of each kind."""

    rgb = np.asarray(picture(23, 14))

    def test_grey_is_repeated(self):
        grey = self.rgb[..., 0]
        for form in ("PNG", "TIFF", "PPM"):
            expected = np.repeat(grey[..., np.newaxis], 3, axis=2)
            np.testing.assert_array_equal(image.read(encoded(PIL.Image.fromarray(grey), form)), expected)

    def test_palettes_become_rgb(self):
        palette = PIL.Image.fromarray(self.rgb).quantize(20)
        for form in ("PNG", "GIF", "TIFF"):
            np.testing.assert_array_equal(image.read(encoded(palette, form)), np.asarray(palette.convert("RGB")))

    @pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
    def test_alpha_is_dropped(self, form):
        alpha = np.dstack([self.rgb, np.full(self.rgb.shape[:2], 7, np.uint8)])
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        np.testing.assert_array_equal(image.read(encoded(PIL.Image.fromarray(alpha), form, **options)), self.rgb)

    def test_cmyk_becomes_rgb_as_in_pillow(self):
        cmyk = PIL.Image.fromarray(self.rgb).convert("CMYK")
        np.testing.assert_array_equal(image.read(encoded(cmyk, "TIFF")), np.asarray(cmyk.convert("RGB")))

    @pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
    def test_the_high_eight_of_16_bits_are_kept(self, form):
        deep = (np.arange(12 * 9).reshape(9, 12) * 600).astype(np.uint16)
        found = image.read(encoded(PIL.Image.fromarray(deep), form))
        np.testing.assert_array_equal(found, np.repeat((deep >> 8).astype(np.uint8)[..., np.newaxis], 3, axis=2))

    @pytest.mark.parametrize("array", [np.ones((4, 5), np.float32), np.full((4, 5), 1 << 20, np.int32)])
    def test_more_than_16_bits_are_refused(self, array):
        data = encoded(PIL.Image.fromarray(array), "TIFF")
        with pytest.raises(ValueError, match=r"<bytes>: .*expected .*16 bits a channel"):
            image.read(data)

    @pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
    def test_the_first_frame_of_an_animation_is_used(self, form):
        frames = [PIL.Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
        options = {"lossless": True} if form == "WEBP" else {}
        found = image.read(encoded(frames[0], form, save_all=True, append_images=frames[1:], **options))
        assert (found == [255, 0, 0]).all()

    @pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "PPM", "ICO"])
    def test_truncated_files_are_an_error(self, form):
        PIL.Image.init()
        if form not in PIL.Image.SAVE:
            pytest.skip("this Pillow has no AVIF")
        data = encoded(picture(64, 48), form, **({"sizes": [(64, 48)]} if form == "ICO" else {}))
        assert image.read(data).shape == (48, 64, 3)
        for kept in (0.1, 0.5, 0.9):
            with pytest.raises(ValueError, match="<bytes>: "):
                image.read(data[: int(len(data) * kept)])

    def test_heic(self):
        heif = pytest.importorskip("pillow_heif")
        stream = io.BytesIO()
        heif.from_pillow(picture(64, 48)).save(stream, quality=90)
        assert image.read(stream.getvalue()).shape == (48, 64, 3)

    def test_heic_says_what_it_needs(self, monkeypatch):
        monkeypatch.setattr(pillow, "_register_heic", lambda: None)
        monkeypatch.delitem(PIL.Image.OPEN, "HEIF", raising=False)
        with pytest.raises(ValueError, match="HEIC needs pillow-heif"):
            image.read(b"\0\0\0\x18ftypheic" + bytes(40))


class TestSources:
    data = encoded(picture(23, 14), "PNG")

    def test_all_kinds_of_sources(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(self.data)
        expected = image.load_image(path)
        stream = io.BytesIO(self.data)
        stream.seek(5)  # read from the beginning, as Pillow does
        sources = [
            str(path),
            self.data,
            bytearray(self.data),
            stream,
            PIL.Image.open(path),
            PIL.Image.open(path).copy(),
        ]
        with path.open("rb") as file:
            for source in [*sources, file]:
                np.testing.assert_array_equal(image.load_image(source), expected)

    def test_paths_of_bytes(self, tmp_path):
        """os.scandir(b"…") gives paths of bytes; plain bytes are a file's content."""
        path = tmp_path / "a.png"
        path.write_bytes(self.data)
        (entry,) = os.scandir(os.fsencode(tmp_path))
        np.testing.assert_array_equal(image.load_image(entry), image.load_image(path))
        with pytest.raises(ValueError, match=r"got a path in bytes; pass os\.fsdecode\(path\)"):
            image.load_image(os.fsencode(path))
        with pytest.raises(ValueError, match="got a path in bytes"):
            image.load_image(b"missing/a.png")
        with pytest.raises(ValueError, match=r"got a url in bytes; pass os\.fsdecode\(url\)"):
            image.load_image(b"data:image/png;base64,")

    def test_data_urls(self):
        coded = base64.b64encode(self.data).decode()
        np.testing.assert_array_equal(image.read(f"data:image/png;base64,{coded}"), image.read(self.data))
        escaped = "".join(f"%{byte:02x}" for byte in self.data)
        np.testing.assert_array_equal(image.read(f"data:,{escaped}"), image.read(self.data))
        lines = "\r\n".join(coded[at : at + 76] for at in range(0, len(coded), 76)).rstrip("=")
        for url in (f"DATA:image/png;BASE64,{coded}", f"data:image/png; base64,{lines}\n"):  # browsers take these too
            np.testing.assert_array_equal(image.read(url), image.read(self.data))
        with pytest.raises(ValueError, match=r"^data:image/png;base64: expected a comma"):
            image.read("data:image/png;base64")
        with pytest.raises(OSError, match="File name too long"):
            image.read(coded * 40)
        assert decode.name_of(coded * 40) == f"{coded[:40]}…"
        with pytest.raises(ValueError, match=r"^data:image/png;base64,\?\?\?: expected base64"):
            image.read("data:image/png;base64,???")

    def test_content_is_read_and_hashed_together(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(self.data)
        assert decode.content(path) == (self.data, hashlib.sha256(self.data).digest())

    def test_urls(self, tmp_path):
        pytest.importorskip("fsspec")
        path = tmp_path / "a.png"
        path.write_bytes(self.data)
        np.testing.assert_array_equal(image.load_image(f"file://{path}"), image.load_image(path))
        with pytest.raises(OSError, match="none"):
            image.load_image(f"file://{tmp_path}/none.png")

    def test_files_in_text_mode(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("text")
        with path.open() as file, pytest.raises(TypeError, match="open in binary mode"):
            image.load_image(file)

    @pytest.mark.parametrize("bad", [None, 3, ["a"]])
    def test_other_things(self, bad):
        with pytest.raises(TypeError, match="expected a path, bytes, an open file, a Pillow picture or an array, got"):
            image.load_image(bad)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
    def test_a_pipe_is_refused_at_once(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        with pytest.raises(ValueError, match="got a special file"):
            image.load_image(tmp_path / "pipe.jpg")

    def test_too_large_a_file(self, tmp_path, monkeypatch):
        monkeypatch.setattr(decode, "MAX_BYTES", 100)
        data = encoded(picture(23, 14), "JPEG")
        with pytest.raises(ValueError, match="expected a file of at most 100 bytes, got more"):
            image.load_image(io.BytesIO(data))

    def test_a_jpeg_that_claims_to_be_huge(self):
        data = bytearray(encoded(picture(23, 14), "JPEG"))
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = b"\xff\xff\xff\xff"
        with pytest.raises(ValueError, match=r"at most 67108864 pixels, got 65535 x 65535|more pixels than Pillow"):
            image.load_image(bytes(data))
