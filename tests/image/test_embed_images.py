"""``embed_images``: order, errors, streams, memory, and the same vectors as one picture at a time."""

import gc
import io
import itertools
import os
import pickle
import signal
import sys
import threading
import time
import tracemalloc

import numpy as np
import PIL.Image
import pytest
from processes import run_program, start

import fastmnv2
from fastmnv2 import image


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Forty pictures of several forms and sizes."""
    folder = tmp_path_factory.mktemp("files")
    random = np.random.RandomState(4)
    paths = []
    for i in range(40):
        coarse = random.randint(0, 256, (5, 6, 3)).astype(np.uint8)
        path = folder / f"{i:02}.{('jpg', 'png', 'webp', 'bmp')[i % 4]}"
        PIL.Image.fromarray(coarse).resize((60 + 7 * i, 200 - 3 * i)).save(path)
        paths.append(str(path))
    return paths


@pytest.fixture(scope="module")
def expected(files, model):
    return np.stack([model.embed(image.load_image(path)) for path in files])


def no_threads_left():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pictures-")] == []


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_vectors_and_order(files, expected, model, threads, batch_size):
    found = model.embed_images(files, threads=threads, batch_size=batch_size)
    np.testing.assert_array_equal(found, expected)
    assert no_threads_left()


def test_kinds_of_items_may_be_mixed(files, model):
    path = files[1]
    with open(path, "rb") as file:
        data = file.read()
    array = np.asarray(PIL.Image.open(path))
    with open(path, "rb") as file:
        items = [path, data, bytearray(data), io.BytesIO(data), file, PIL.Image.open(path), array]
        found = fastmnv2.embed_images(items, weights=model, threads=2)
    assert (found == found[0]).all()


def test_the_same_pillow_picture_many_times(files, model, expected):
    for path, vector in zip(files[:8], expected, strict=False):
        found = model.embed_images([PIL.Image.open(path)] * 12, threads=4)
        assert (found == vector).all()


def test_archives_are_read_in_order(files, model, expected):
    """Members of an archive share one file, whose position moves while pictures are decoded."""
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in files:
            archive.add(path, path.rpartition("/")[2])
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        found = model.embed_images((archive.extractfile(member) for member in archive), threads=3)
    np.testing.assert_array_equal(found, expected)


class TestArrays:
    def test_shapes_and_dtypes(self, model):
        rgb = np.random.RandomState(0).randint(0, 256, (50, 70, 3)).astype(np.uint8)
        alpha = np.dstack([rgb, rgb[..., 0]])
        unit = rgb * np.float32(1 / 255)
        found = model.embed_images([rgb, alpha, rgb[:, ::-1][:, ::-1], unit, np.float64(unit)])
        assert (found == found[0]).all()
        grey = rgb[..., 0]
        found = model.embed_images([grey, grey[..., np.newaxis], np.repeat(grey[..., np.newaxis], 3, axis=2)])
        assert (found == found[0]).all()
        np.testing.assert_array_equal(model.embed_images(np.stack([rgb, rgb])), model.embed_images([rgb, rgb]))

    @pytest.mark.parametrize("method", ["tf2", "tf1", "area"])
    def test_methods(self, model, method):
        rgb = np.random.RandomState(0).randint(0, 256, (150, 170, 3)).astype(np.uint8)
        resized = image.resize(rgb * np.float32(1 / 255), method=method)
        np.testing.assert_array_equal(model.embed_images([rgb], method=method)[0], model.embed(resized))

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (np.zeros((4, 4, 3), np.int32), "uint8, or of floats"),
            (np.zeros((3, 40, 40), np.uint8), r"1, 3 or 4 channels, got \[3, 40, 40\]"),
            (np.zeros((0, 4, 3), np.uint8), "got"),
            (np.broadcast_to(np.uint8(0), (9000, 9000, 3)), "at most 67108864 pixels, got 9000 x 9000"),
        ],
    )
    def test_bad_arrays(self, model, bad, message):
        with pytest.raises(fastmnv2.ImageError, match=message):
            model.embed_images([bad])


class TestErrors:
    def test_errors_have_the_items_index_and_name(self, files, model, tmp_path):
        (tmp_path / "bad.jpg").write_bytes(b"nothing")
        items = [*files[:5], str(tmp_path / "bad.jpg"), *files[5:], "none.jpg"]
        with pytest.raises(fastmnv2.ImageError, match=r"item 5, .*bad\.jpg: expected a JPEG") as caught:
            model.embed_images(items, threads=2)
        assert (caught.value.index, caught.value.name) == (5, str(tmp_path / "bad.jpg"))
        assert isinstance(caught.value.__cause__, ValueError)
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(copy), copy.index) == (str(caught.value), 5)
        assert no_threads_left()

    def test_skipped_items_are_named_and_have_no_row(self, files, model, expected):
        items = [None, *files[:20], "none.jpg", *files[20:], b"", b"?", *["x"] * 4]
        with pytest.warns(UserWarning, match=r"item 0, <NoneType>: .*; item 21, none.jpg: No such file.*; and 3 more"):
            found = model.embed_images(items, on_error="skip")
        np.testing.assert_array_equal(found, expected)

    def test_a_function_receives_each_error(self, files, model):
        errors = []
        found = model.embed_images(["a", files[0], b"b"], on_error=errors.append)
        assert found.shape == (1, 1280)
        assert [(error.index, error.name) for error in errors] == [(0, "a"), (2, "<bytes>")]

    def test_a_file_that_shrinks_while_it_is_read(self, model, tmp_path, monkeypatch):
        path = tmp_path / "a.jpg"
        PIL.Image.effect_noise((600, 400), 60).save(path)
        original = image.decode.read_whole

        def shrinking(stream, name):
            path.write_bytes(path.read_bytes()[:300])
            return original(stream, name)

        monkeypatch.setattr(image.decode, "read_whole", shrinking)
        with pytest.raises(fastmnv2.ImageError, match=r"a\.jpg: "):
            model.embed_images([path])

    def test_names_with_control_characters(self, model):
        with pytest.raises(fastmnv2.ImageError) as caught:
            model.embed_images(["a\n\x1b[31m.jpg"])
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize(
        ("items", "options", "message"),
        [
            ("a.jpg", {}, "several pictures, got one"),
            (b"a", {}, "several pictures, got one"),
            (io.BytesIO(b"a"), {}, "several pictures, got one"),
            (np.array("a.jpg"), {}, r"of paths \[n\]; got <U5 \[\]"),
            (PIL.Image.new("RGB", (2, 2)), {}, "several pictures, got one"),
            (np.zeros((4, 4, 3)), {}, "a list of arrays, or an array of pictures"),
            (3, {}, "expected an iterable"),
            ([], {"batch_size": 0}, "batch_size: expected a positive int, got 0"),
            ([], {"threads": 0}, "threads: expected a positive int"),
            ([], {"method": "cubic"}, "method: expected 'tf2', 'tf1' or 'area', got 'cubic'"),
            ([], {"decode": "fast"}, "decode: expected 'exact' or 'scaled', got 'fast'"),
            ([], {"on_error": "ignore"}, "on_error: expected"),
        ],
    )
    def test_wrong_arguments_are_refused_at_once(self, model, items, options, message):
        for call in (model.embed_images, model.iter_embed_images):
            with pytest.raises((TypeError, ValueError), match=message):
                call(items, **options)


class TestOut:
    def test_out(self, files, expected, model):
        out = np.empty((len(files), 1280), np.float32)
        found = model.embed_images(files, out=out)
        assert found.base is out or found is out
        np.testing.assert_array_equal(out, expected)
        assert model.embed_images(iter(files[:3]), out=out).shape == (3, 1280)

    @pytest.mark.parametrize("out", [[], np.empty((40, 1280)), np.empty((39, 1280), np.float32)])
    def test_bad_out(self, files, model, out):
        with pytest.raises((TypeError, ValueError), match="out: expected"):
            model.embed_images(files, out=out)

    def test_out_with_too_few_rows(self, files, model):
        with pytest.raises(ValueError, match="out: expected a row for every item, got 3 rows"):
            model.embed_images(iter(files), out=np.empty((3, 1280), np.float32))

    def test_no_items(self, model):
        assert model.embed_images([]).shape == (0, 1280)
        assert model.embed_images(iter([])).shape == (0, 1280)

    def test_normalized(self, files, expected, model):
        found = model.embed_images(files, normalize=True)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(found[3], model.embed(image.load_image(files[3]), normalize=True))


class TestStreams:
    def test_endless(self, files, expected, model):
        stream = model.iter_embed_images(itertools.cycle(files), threads=2, batch_size=8)
        for place, (item, vector) in enumerate(itertools.islice(stream, 100)):
            assert item == files[place % 40]
            np.testing.assert_array_equal(vector, expected[place % 40])
        stream.close()
        assert no_threads_left()
        assert list(stream) == []

    def test_only_about_a_batch_is_read_ahead(self, files, model):
        taken = itertools.count()
        stream = model.iter_embed_images((files[next(taken) % 40] for _ in itertools.count()), batch_size=10, threads=2)
        for place, _ in enumerate(itertools.islice(stream, 50)):
            assert place < next(taken) <= place + 100  # reading the counter counts too
        stream.close()

    def test_a_slow_source_delays_only_one_item(self, files, model):
        """With a camera, each vector arrives before the stream waits for the picture after the next."""
        taken = []

        def camera():
            for path in files[:6]:
                taken.append(path)
                yield path
                time.sleep(0.2)

        for place, _ in enumerate(model.iter_embed_images(camera(), batch_size=64)):
            assert len(taken) <= place + 2

    def test_a_discarded_iterator_stops_its_threads(self, files, model):
        stream = model.iter_embed_images(itertools.cycle(files), threads=3)
        next(stream)
        del stream
        gc.collect()
        assert no_threads_left()

    def test_an_error_of_the_source_is_raised(self, files, model):
        def broken():
            yield from files[:3]
            raise OSError("the source broke")

        with pytest.raises(OSError, match="the source broke"):
            list(model.iter_embed_images(broken()))
        assert no_threads_left()

    def test_memory_of_very_many_names(self, model, monkeypatch):
        tracemalloc.start()
        names = (f"no/such/picture/{i}.jpg" for i in range(20_000))
        count = itertools.count()
        assert model.embed_images(names, on_error=lambda error: next(count)).shape == (0, 1280)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert next(count) == 20_000
        assert peak < 10 << 20

    @pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
    def test_ctrl_c(self, files, untrained_native):
        with start("endless_pictures", untrained_native, *files) as process:
            assert process.stdout.readline() == "started\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 3
            assert process.stdout.read() == "stopped, 1 thread\n"


def test_an_error_of_the_network_is_raised(files, model, monkeypatch):
    def failing(self, images, **options):
        raise MemoryError("of the network")

    monkeypatch.setattr(fastmnv2.Model, "embed", failing)
    with pytest.raises(MemoryError, match="of the network"):
        model.embed_images(files)


@pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="only Linux reports the peak of a process's memory"
)
@pytest.mark.parametrize(
    ("form", "method"),
    [
        ("jpg", "tf2"),
        pytest.param("jpg", "area", marks=pytest.mark.slow),
        pytest.param("png", "tf2", marks=pytest.mark.slow),
        pytest.param("png", "area", marks=pytest.mark.slow),
    ],
)
def test_peak_memory_is_one_picture_per_thread(untrained_native, tmp_path, form, method):
    """Exact decoding of a 12-megapixel JPEG or PNG makes no second copy of the whole picture."""
    path = tmp_path / f"a.{form}"
    picture = PIL.Image.effect_noise((400, 300), 60).convert("RGB").resize((4000, 3000))
    picture.save(path, **({"quality": 90} if form == "jpg" else {"compress_level": 1}))
    done = run_program("peak_of_pictures", untrained_native, path, method)
    most = 1.3 if form == "jpg" else 1.5  # Pillow's own pictures take 4 bytes per pixel
    assert 0.9 * 36e6 < float(done.stdout) < most * 36e6
