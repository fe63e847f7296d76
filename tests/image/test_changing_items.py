"""Items that change after they were passed, dying threads, forks and gevent give right rows or one error."""

import contextlib
import importlib.util
import io
import os
import signal
import threading
import warnings

import numpy as np
import PIL.Image
import PIL.ImageSequence
import pytest
from processes import run_program

import fastmnv2
from fastmnv2 import image

FRAMES = [np.random.RandomState(i).randint(0, 256, (70 + i, 90, 3)).astype(np.uint8) for i in range(12)]
UNIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(scope="module")
def expected(model):
    return np.stack([model.embed(image.resize(frame[:70])) for frame in FRAMES])


def one_buffer():
    buffer = np.empty((70, 90, 3), np.uint8)
    for frame in FRAMES:
        buffer[...] = frame[:70]
        yield buffer
    buffer[...] = 0


def views_of_one_buffer():
    for buffer in one_buffer():
        yield buffer[...]


def one_canvas():
    canvas = PIL.Image.new("RGB", (90, 70))
    for frame in FRAMES:
        canvas.paste(PIL.Image.fromarray(frame[:70]))
        yield canvas
    canvas.paste((0, 0, 0), (0, 0, 90, 70))


def pages():
    stream = io.BytesIO()
    first, *others = (PIL.Image.fromarray(frame[:70]) for frame in FRAMES)
    first.save(stream, "TIFF", save_all=True, append_images=others)
    return PIL.ImageSequence.Iterator(PIL.Image.open(stream))


def closed_pictures():
    for frame in FRAMES:
        stream = io.BytesIO()
        PIL.Image.fromarray(frame[:70]).save(stream, "PNG")
        with PIL.Image.open(stream) as opened:
            yield opened


def one_bytearray():
    buffer = bytearray()
    for frame in FRAMES:
        stream = io.BytesIO()
        PIL.Image.fromarray(frame[:70]).save(stream, "PNG")
        buffer[:] = stream.getvalue()
        yield buffer
    buffer[:] = b""


def one_memoryview():
    memory = bytearray(100_000)
    for data in one_bytearray():
        memory[: len(data)] = data
        yield memoryview(memory)[: len(data)]


def one_open_file():
    file = io.BytesIO()
    for data in one_bytearray():
        file.seek(0)
        file.truncate()
        file.write(data)
        yield file


KINDS = [
    one_buffer,
    views_of_one_buffer,
    one_canvas,
    pages,
    closed_pictures,
    one_bytearray,
    one_memoryview,
    one_open_file,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_each_item_is_read_as_it_was_when_it_arrived(model, expected, kind, threads):
    for _ in range(3):
        np.testing.assert_array_equal(model.embed_images(kind(), threads=threads), expected)
    with contextlib.closing(model.iter_embed_images(kind(), threads=threads, batch_size=2)) as found:
        np.testing.assert_array_equal([vector for _, vector in found], expected)


def test_errors_of_such_items_have_their_place(model):
    items = iter([FRAMES[0], np.zeros((2, 2, 9), np.uint8), PIL.Image.new("F", (3, 3)), FRAMES[1]])
    errors = []
    assert model.embed_images(items, on_error=errors.append).shape == (2, 1280)
    assert [error.index for error in errors] == [1, 2]


def test_an_array_of_paths(model, tmp_path):
    paths = []
    for i, frame in enumerate(FRAMES[:4]):
        PIL.Image.fromarray(frame[:70]).save(tmp_path / f"{i}.png")
        paths.append(str(tmp_path / f"{i}.png"))
    expected = model.embed_images(paths)
    for array in (np.array(paths), np.array(paths, object)):
        np.testing.assert_array_equal(model.embed_images(array), expected)
        np.testing.assert_array_equal(model.embed_images(iter(array)), expected)
    with pytest.raises(ValueError, match=r"or of paths \[n\]; got float64 \[4\]"):
        model.embed_images(np.zeros(4))


# ---- errors that end a thread ----


class SilentError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Raises:
    """An item that raises when it is accessed."""

    def __init__(self, error):
        self.error = error

    def __array__(self, *_, **__):
        raise self.error


class Unnamed(Raises):
    """An item whose name raises too."""

    @property
    def filename(self):
        raise self.error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("odd")])
@pytest.mark.parametrize("as_list", [False, True])
def test_errors_that_are_no_exceptions_end_the_call(model, error, as_list):
    items = [*FRAMES[:3], Raises(error), *FRAMES[3:]]
    with pytest.raises(type(error)) as caught:
        model.embed_images(items if as_list else iter(items), threads=2, on_error="skip")
    assert caught.value is error
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pictures-")]


@pytest.mark.parametrize("kind", [Raises, Unnamed])
@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("count", [1, 12])
def test_exceptions_without_a_text(model, as_list, kind, count):
    items = [kind(SilentError()), *FRAMES][:count]
    with pytest.raises(fastmnv2.ImageError, match=rf"item 0, <{kind.__name__}>: SilentError"):
        model.embed_images(items if as_list else iter(items), threads=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(model.embed_images(items, threads=2, on_error="skip")) == count - 1


def test_a_network_that_exits(model, monkeypatch):
    def failing(self, images, **options):
        raise SystemExit(5)

    monkeypatch.setattr(fastmnv2.Model, "embed", failing)
    with pytest.raises(SystemExit):
        model.embed_images(FRAMES, threads=2)


# ---- forks, and other kinds of threads ----


@UNIX
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_while_pictures_are_decoded(model):
    """Locks that a thread of the parent holds are free in the child."""
    stream = io.BytesIO()
    PIL.Image.fromarray(np.tile(FRAMES[0], (12, 12, 1))).save(stream, "PNG", compress_level=1)
    shared = PIL.Image.fromarray(FRAMES[1])
    stop = threading.Event()

    def serve():
        while not stop.is_set():
            model.embed_images([PIL.Image.open(stream), shared, shared], threads=2)

    thread = threading.Thread(target=serve)
    thread.start()
    statuses = []
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                same = len(np.unique(model.embed_images([shared] * 40, threads=1), axis=0)) == 1
                os._exit(0 if same else 1)
            statuses.append(os.waitpid(child, 0)[1])
    finally:
        stop.set()
        thread.join()
    assert statuses == [0] * 5


@UNIX
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("started", [False, True])
def test_an_iterator_that_was_started_before_a_fork(model, started):
    found = model.iter_embed_images(FRAMES * 20, threads=2)
    if started:
        next(found)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            count = len(list(found))
        except RuntimeError as error:
            count = -1 if "started before a fork" in str(error) else -2
        os._exit(0 if count == (-1 if started else len(FRAMES) * 20) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(found)) == len(FRAMES) * 20 - started


@pytest.mark.skipif(not importlib.util.find_spec("gevent"), reason="gevent is not installed")
def test_gevent_may_patch_after_the_first_call(untrained_native):
    assert run_program("patched_by_gevent", untrained_native).stdout == "the same\n"
