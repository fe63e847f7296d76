"""Large, damaged or nonsensical metadata never prevent reading intact pixels."""

import io
import struct
import warnings
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from fastmnv2 import image
from fastmnv2.image import metadata

PICTURE = PIL.Image.fromarray(np.random.RandomState(5).randint(0, 256, (30, 44, 3)).astype(np.uint8))
LARGE = zlib.compress(b"node graph " * 200_000)


def encoded(form, **options):
    stream = io.BytesIO()
    PICTURE.save(stream, form, **options)
    return stream.getvalue()


def chunk(kind, body, damage=0):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ damage)


def exif(orientation):
    found = PIL.Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


CHUNKS = {
    "iCCP of 2 MB": chunk(b"iCCP", b"profile\0\0" + LARGE),
    "zTXt of 2 MB": chunk(b"zTXt", b"workflow\0\0" + LARGE),
    "iTXt of 2 MB": chunk(b"iTXt", b"workflow\0\1\0\0\0" + LARGE),
    "zTXt that can't be inflated": chunk(b"zTXt", b"workflow\0\0nothing"),
    "tEXt with a wrong checksum": chunk(b"tEXt", b"Comment\0by hand", damage=1),
    "iCCP with a wrong checksum": chunk(b"iCCP", b"p\0\0" + zlib.compress(b"abc"), damage=1),
    "tRNS with a wrong checksum": chunk(b"tRNS", bytes(6), damage=1),
    "tRNS that is too short": chunk(b"tRNS", b"\0"),
    "pHYs that is too short": chunk(b"pHYs", b"\0"),
    "sRGB that is empty": chunk(b"sRGB", b""),
    "cHRM of three bytes": chunk(b"cHRM", b"abc"),
    "acTL of one byte": chunk(b"acTL", b"a"),
    "fcTL of one byte": chunk(b"fcTL", b"a"),
    "eXIf without EXIF": chunk(b"eXIf", b"garbage!"),
    "eXIf with a wrong checksum": chunk(b"eXIf", exif(1), damage=1),
}


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("fault", CHUNKS)
def test_png(fault, place, turn, recwarn):
    data = encoded("PNG")
    at = data.index(b"IDAT") - 4 if place == "before" else data.index(b"IEND") - 4
    damaged = data[:at] + CHUNKS[fault] + data[at:]
    np.testing.assert_array_equal(image.read(damaged, exif=turn), image.read(data))
    np.testing.assert_array_equal(image.read(io.BytesIO(damaged), exif=turn), image.read(data))


def test_png_is_rotated_even_if_other_metadata_are_damaged():
    data = encoded("PNG", exif=exif(6))
    damaged = data[:33] + CHUNKS["iCCP of 2 MB"] + data[33:]
    np.testing.assert_array_equal(image.read(damaged, exif=True), image.read(data, exif=True))
    assert image.read(damaged, exif=True).shape == (44, 30, 3)


def test_png_alpha_survives():
    rgba = np.dstack([np.asarray(PICTURE), np.full((30, 44), 7, np.uint8)])
    grey = PIL.Image.fromarray(rgba[..., 0])
    for picture, options in ((PIL.Image.fromarray(rgba), {}), (grey, {"transparency": int(rgba[0, 0, 0])})):
        stream = io.BytesIO()
        picture.save(stream, "PNG", **options)
        data = stream.getvalue()
        damaged = data[:33] + CHUNKS["zTXt of 2 MB"] + data[33:]
        for background in (None, "white"):
            expected = image.read(data, background=background)
            np.testing.assert_array_equal(image.read(damaged, background=background), expected)


@pytest.mark.parametrize("broken", [b"garbage!", b"", b"II*\0\xff\xff\xff\xff", exif(6)[:-9], b"Exif\0\0II*\0"])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_broken_exif(form, broken):
    if form == "PNG":
        data = encoded(form)
        damaged = data[:33] + chunk(b"eXIf", broken) + data[33:]
    else:
        data = encoded(form, **({"lossless": True} if form == "WEBP" else {}))
        damaged = encoded(form, exif=b"Exif\0\0" + broken, **({"lossless": True} if form == "WEBP" else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in (False, True):
            found = image.read(damaged, exif=turn)
            assert found.shape in ((30, 44, 3), (44, 30, 3))
            if not turn:
                np.testing.assert_array_equal(found, image.read(data))


@pytest.mark.parametrize("body", [b"Photoshop 3.0\0" + b"8BIM\x04\x04", b"MPF\0II", b"ICC_PROFILE\0\1", b"JFIF\0", b""])
@pytest.mark.parametrize("code", [0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE])
def test_jpeg_segments(code, body):
    data = encoded("JPEG", quality=90)
    segment = bytes([0xFF, code]) + (len(body) + 2).to_bytes(2, "big") + body
    found = image.read(data[:20] + segment + data[20:], exif=True)
    np.testing.assert_array_equal(found, image.read(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_deflate", "jpeg"])
def test_tiff_is_rotated_only_on_request(orientation, compression):
    """Pillow always rotates TIFFs by itself; ``exif=False`` undoes that."""
    options = {"compression": compression} if compression else {}
    plain, turned = encoded("TIFF", **options), encoded("TIFF", exif=exif(orientation), **options)
    stored = np.asarray(PIL.Image.open(io.BytesIO(plain)).convert("RGB"))
    np.testing.assert_array_equal(image.read(turned, exif=False), stored)
    marked = PIL.Image.fromarray(stored)
    marked.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(image.read(turned, exif=True), np.asarray(PIL.ImageOps.exif_transpose(marked)))
    for decoded in (False, True):  # a Pillow picture that is already decoded has already been rotated
        opened = PIL.Image.open(io.BytesIO(turned))
        if decoded:
            opened.load()
        assert image.read(opened, exif=False).shape == (opened.size[::-1] if decoded else stored.shape[:2]) + (3,)


def replaced(data, at, new):
    return data[:at] + new + data[at + len(new) :]


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize(
    "fault", ["RIFF's size", "EXIF's size", "cut in XMP", "reserved flags", "flags of absent parts"]
)
def test_webp_containers(fault, turn):
    data = encoded("WEBP", lossless=True, exif=exif(1), xmp=b"<xmp>" * 50)
    damaged = {
        "RIFF's size": lambda: replaced(data, 4, b"\xff" * 4),
        "EXIF's size": lambda: replaced(data, data.index(b"EXIF") + 4, b"\xff\xff\0\0"),
        "cut in XMP": lambda: data[:-20],
        "reserved flags": lambda: replaced(data, 20, bytes([data[20] | 0xC1])),
        "flags of absent parts": lambda: replaced(encoded("WEBP", lossless=True, exif=exif(1)), 20, b"\x2c"),
    }[fault]()
    np.testing.assert_array_equal(image.read(damaged, exif=turn), np.asarray(PICTURE))


def test_webp_is_rotated_even_if_other_metadata_are_damaged():
    data = encoded("WEBP", lossless=True, exif=exif(6), xmp=b"<xmp>" * 50)
    np.testing.assert_array_equal(image.read(data[:-20], exif=True), np.asarray(PICTURE).swapaxes(0, 1)[:, ::-1])


@pytest.mark.parametrize("compression", [None, "tiff_deflate", "jpeg"])
@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_tiff_tags(compression, turn):
    """Pillow stops reading at a tag whose value is outside the file, and so misses the pixels' tags after it."""
    options = {"compression": compression} if compression else {}
    data = encoded("TIFF", description="a photo of a cat", exif=exif(6), **options)
    expected = image.read(data, exif=turn)
    assert expected.shape == ((44, 30, 3) if turn else (30, 44, 3))
    tag = struct.pack("<HHI", 270, 2, 17)
    at = data.index(tag) + len(tag)
    for value in (b"\0\xff\xff\xff", b"\xff\xff\xff\xff"):
        np.testing.assert_array_equal(image.read(replaced(data, at, value), exif=turn), expected)


def test_only_metadata_are_removed():
    for form in ("PNG", "JPEG"):
        data = encoded(form)
        kept = metadata.without(data) or data
        np.testing.assert_array_equal(image.read(kept), image.read(data))
        for size in range(0, len(data), 7):  # truncated files remain errors
            without = metadata.without(data[:size])
            assert without is None or len(without) < size
    assert metadata.without(encoded("BMP")) is None


def test_broken_pixels_are_still_an_error():
    data = encoded("PNG")
    at = data.index(b"IDAT")
    damaged = bytearray(data[:33] + CHUNKS["tEXt with a wrong checksum"] + data[33:])
    damaged[at + 60] ^= 0xFF
    with pytest.raises(ValueError, match=r"<bytes>: a broken or truncated picture|got something else"):
        image.read(bytes(damaged))
