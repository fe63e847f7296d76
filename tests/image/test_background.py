"""``background``: the colour behind transparent parts of pictures of every kind."""

import io
import json
from dataclasses import asdict

import numpy as np
import PIL.Image
import pytest

from fastmnv2 import image
from fastmnv2.image.options import Options

RGBA = np.random.RandomState(3).randint(0, 256, (40, 50, 4)).astype(np.uint8)
COLOUR = (200, 17, 94)


def encoded(picture, form, **options):
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def over(rgba, colour=COLOUR):
    """The expected blend, computed with exact fractions."""
    alpha = rgba[..., 3:].astype(np.int64)
    return ((rgba[..., :3] * alpha + np.array(colour) * (255 - alpha) + 127) // 255).astype(np.uint8)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_alpha(form):
    lossless = {"lossless": True, "exact": True} if form == "WEBP" else {}
    data = encoded(PIL.Image.fromarray(RGBA), form, **lossless)
    np.testing.assert_array_equal(image.read(data, background=COLOUR), over(RGBA))
    np.testing.assert_array_equal(image.read(data), RGBA[..., :3])


def test_grey_with_alpha():
    grey = PIL.Image.fromarray(RGBA[..., 2:])  # LA
    shown = np.dstack([RGBA[..., 2]] * 3 + [RGBA[..., 3]])
    np.testing.assert_array_equal(image.read(encoded(grey, "PNG"), background=COLOUR), over(shown))


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_transparent_colours_of_palettes(form):
    palette = PIL.Image.fromarray(RGBA[..., :3]).quantize(20)
    clear = np.asarray(palette) == 7
    found = image.read(encoded(palette, form, transparency=7), background=COLOUR)
    assert (found[clear] == COLOUR).all()
    np.testing.assert_array_equal(found[~clear], np.asarray(palette.convert("RGB"))[~clear])


def test_transparent_colours_of_rgb_and_grey():
    rgb = RGBA[..., :3].copy()
    rgb[3:9, 4:20] = (1, 2, 3)
    found = image.read(encoded(PIL.Image.fromarray(rgb), "PNG", transparency=(1, 2, 3)), background=COLOUR)
    assert (found[3:9, 4:20] == COLOUR).all()
    np.testing.assert_array_equal(found[9:], rgb[9:])
    deep = np.full((9, 9), 40_000, np.uint16)
    deep[2] = 513
    data = encoded(PIL.Image.fromarray(deep), "PNG")
    clear = b"\0\0\0\2tRNS\2\1"
    import zlib

    data = data[:33] + clear + zlib.crc32(clear[4:]).to_bytes(4, "big") + data[33:]
    found = image.read(data, background=COLOUR)
    assert (found[2] == COLOUR).all()
    assert (found[3] == 40_000 >> 8).all()


def test_arrays_and_items_of_every_kind(model, tmp_path):
    path = tmp_path / "a.png"
    PIL.Image.fromarray(RGBA).save(path)
    for crop in (None, "center"):
        for method in ("tf2", "area"):
            want = model.embed(image.resize(over(RGBA), method=method, crop=crop))
            items = [path, path.read_bytes(), PIL.Image.open(path), RGBA]
            found = model.embed_images(items, background=COLOUR, method=method, crop=crop)
            assert (found == want).all()


def test_arrays_of_floats(model):
    unit = RGBA * np.float32(1 / 255)
    clear, solid = unit.copy(), unit.copy()
    clear[..., 3], solid[..., 3] = 0, 1
    flat = np.broadcast_to(np.uint8(COLOUR), (40, 50, 3)) * np.float32(1 / 255)
    found = model.embed_images([clear, solid], background=COLOUR)
    np.testing.assert_array_equal(found, model.embed_images([flat, unit[..., :3]]))


@pytest.mark.parametrize("same", [(255, 255, 255), [255, 255, 255], "#ffffff", "#FFFFFF", "white"])
def test_a_colour_may_be_written_in_many_ways(same):
    options = Options(background=same)
    assert (options.background, options.rgb) == ("#ffffff", (255, 255, 255))
    assert Options(**json.loads(json.dumps(asdict(options)))) == options


@pytest.mark.parametrize("bad", ["whitish", "#fff", "#gggggg", (1, 2), (1, 2, 256), (1.0, 2, 3), 7])
def test_other_colours_are_refused(bad):
    with pytest.raises(ValueError, match="background: expected"):
        Options(background=bad)
