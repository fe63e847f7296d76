"""Many pictures through decoder, resizer and network at once, on every core, in order and in bounded memory.

Each thread takes the next picture, decodes it, resizes it into its own batch, and runs the network on that, alone, when
the batch is full or no picture waits. So nothing waits for anything but the next picture, and there is nothing to
balance: decoding may take three times as long as the network, or a third.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import ImageError
from fastmnv2.image import decode, resizing
from fastmnv2.image.decode import Options

Images = NDArray[np.float32]
Compute = Callable[[Images, int], Sequence[Any] | NDArray[Any]]
"""What is wanted of a batch, float32 [n,height,width,3] in [0,1], on so many threads: one value for each image."""


_LATEST = 0.25  # seconds that a decoded picture waits for others: large ones would keep progress from being seen


@dataclass(slots=True)
class Result:
    """What became of one item: a value, or an error that names it."""

    index: int
    item: Any
    value: Any = None
    error: ImageError | None = None


class _Job(Result):
    """A result on its way. ``data`` is what is decoded: the item, or what was read of it."""

    __slots__ = ("data", "done", "fatal")

    def __init__(self, index: int, item: Any) -> None:
        super().__init__(index, item)
        self.data: Any = item
        self.fatal: BaseException | None = None
        self.done = False

    def failed(self, error: Exception) -> None:
        self.error = ImageError.of(error, self.index, decode.name_of(self.item))


def stream(
    items: Iterable[Any], compute: Compute, options: Options, *, threads: int = 1, batch_size: int = 64
) -> Generator[Result, None, None]:
    """What ``compute`` makes of each item, in order.

    At most about ``batch_size`` items (or two a thread, if that is more) are held at a time, and a thread's batches
    are a part of that; a picture being decoded is held by each thread. Items are taken from the iterable, and open
    files read, where the generator is advanced; when the next item does not come, what is there already is finished
    first. Closing the generator stops the threads after the picture, or batch, that each has in hand.
    """
    if isinstance(items, Sized) and len(items) == 1:  # no threads for one: they would cost more than resizing
        yield from _one(next(iter(items)), compute, options, threads)
        return
    workers = _Workers(compute, options, threads, batch_size)
    try:
        yield from workers.run(iter(items))
    finally:
        workers.stop()


def _one(item: Any, compute: Compute, options: Options, threads: int) -> Iterator[Result]:
    job = _Job(0, item)
    image = np.empty((1, *options.size, 3), np.float32)
    try:
        _load(_readable(item), options, image[0])
    except Exception as error:
        job.failed(error)
    else:
        job.value = compute(image, threads)[0]
    yield Result(0, item, job.value, job.error)


class _Workers:
    """Threads that take jobs from a queue. ``_changed`` guards what they say of them."""

    def __init__(self, compute: Compute, options: Options, threads: int, batch_size: int) -> None:
        self._compute, self._options = compute, options
        self._most = max(batch_size, 2 * threads)
        self._batch = max(1, self._most // (2 * threads))
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._changed = threading.Condition()
        self._stopped = False
        self._threads = [threading.Thread(target=self._work, name=f"pictures-{i}", daemon=True) for i in range(threads)]

    def run(self, items: Iterator[Any]) -> Iterator[Result]:
        for thread in self._threads:
            thread.start()
        window: deque[_Job] = deque()
        index, more = 0, True
        while more or window:
            while more and len(window) < self._most and not (window and window[0].done):
                try:
                    job = _Job(index, next(items))
                except StopIteration:
                    more = False
                    break
                index += 1
                window.append(job)
                self._submit(job)
            if window:
                self._wait_for(window[0])
                job = window.popleft()
                if job.fatal is not None:
                    raise job.fatal
                yield Result(job.index, job.item, job.value, job.error)

    def _submit(self, job: _Job) -> None:
        try:
            job.data = _readable(job.item)
        except Exception as error:
            job.failed(error)
            job.done = True
        else:
            self._jobs.put(job)

    def _wait_for(self, job: _Job) -> None:
        with self._changed:
            # Now and then, for where a wait without an end can't be interrupted, and for what a fork leaves behind.
            while not self._changed.wait_for(lambda: job.done, timeout=0.5):
                if not any(thread.is_alive() for thread in self._threads):
                    raise RuntimeError(
                        "the threads that decode pictures are gone: this iterator was begun before a fork"
                    )

    def stop(self) -> None:
        """Ends the threads. One that is at a picture, or a batch, for longer than a second ends by itself after it."""
        self._stopped = True
        for _ in self._threads:
            self._jobs.put(None)
        until = time.monotonic() + 1
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0, until - time.monotonic()))

    def _work(self) -> None:
        images = np.empty((self._batch, *self._options.size, 3), np.float32)
        waiting: list[_Job] = []
        since = 0.0
        room = _Room()
        while True:
            try:
                job = self._jobs.get(block=not waiting)
            except Empty:
                self._finish(waiting, images)
                continue
            if job is None or self._stopped:
                return
            try:
                _load(job.data, self._options, images[len(waiting)], room)
            except Exception as error:
                job.failed(error)
                self._finish([job], images[:0])
            else:
                since = since if waiting else time.monotonic()
                waiting.append(job)
                if len(waiting) == len(images) or time.monotonic() - since > _LATEST:
                    self._finish(waiting, images)
            finally:
                job.data = None

    def _finish(self, jobs: list[_Job], images: Images) -> None:
        if len(images):
            try:
                for job, value in zip(jobs, self._compute(images[: len(jobs)], 1), strict=True):
                    job.value = value
            except BaseException as error:  # not the pictures' fault: raised where the results are waited for
                for job in jobs:
                    job.fatal = error
        with self._changed:
            for job in jobs:
                job.done = True
            self._changed.notify_all()
        jobs.clear()


class _Room:
    """One thread's memory for decoded pictures: fresh memory for each would cost a third of decoding it."""

    def __init__(self) -> None:
        self._memory: NDArray[np.uint8] | None = None

    def __call__(self, size: int) -> NDArray[np.uint8]:
        if self._memory is None or len(self._memory) < size:
            self._memory = None  # before there is more
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size]


def _readable(item: Any) -> Any:
    """``item``, or the bytes of an open file: those who share a file read it one after the other."""
    return decode.read_whole(item, decode.name_of(item)) if hasattr(item, "read") else item


def _load(item: Any, options: Options, out: Images, room: _Room | None = None) -> None:
    """One item, resized into ``out`` [height,width,3]."""
    if hasattr(item, "getexif") or isinstance(item, (str, bytes, bytearray, memoryview)) or hasattr(item, "__fspath__"):
        decode.open_picture(item, options, room).resize(out, options.method)
        return
    array = _as_array(item, options.max_pixels)
    unit = resizing.UNIT if array.dtype == np.uint8 else np.float32(1)
    resizing.resize_array(array, out, options.method, unit)


def _as_array(item: Any, max_pixels: int) -> NDArray[Any]:
    """An array of one picture as [H,W,3], uint8 or float: grey is repeated, alpha dropped."""
    if not hasattr(item, "__array__") and not hasattr(item, "__array_interface__"):
        raise TypeError(
            f"expected a path, bytes, an open file, a Pillow picture or an array, got {type(item).__name__}"
        )
    array = np.asarray(item)
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise TypeError(f"expected an array of uint8, or of floats in [0, 1], got {array.dtype}")
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(f"expected an array [H, W], or [H, W, C] of 1, 3 or 4 channels, got {list(array.shape)}")
    if array.shape[0] * array.shape[1] > max_pixels:
        raise ValueError(f"expected at most {max_pixels} pixels, got {array.shape[1]} x {array.shape[0]}")
    return np.broadcast_to(array, (*array.shape[:2], 3)) if array.shape[2] == 1 else array[..., :3]
