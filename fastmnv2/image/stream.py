"""Decode, resize and run the network on many pictures in parallel, with results in order and bounded memory.

Each thread takes the next picture, decodes it and resizes it into its own batch. When the batch is full or no picture
waits, the same thread runs the network on the batch. So threads wait only for the next picture, and the load is
balanced whether decoding takes three times as long as the network or a third.
"""

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core.errors import ImageError
from fastmnv2.image import decode, pillow, resizing
from fastmnv2.image.options import Options

Images = NDArray[np.float32]
Compute = Callable[[Images, int], Sequence[Any] | NDArray[Any]]
"""A function of a batch, float32 [n,height,width,3] in [0,1], and a number of threads; returns a value per image."""


_MAX_WAIT = 0.25  # seconds that a decoded picture waits for a full batch; more would delay results of large pictures


@dataclass(slots=True)
class Result:
    """The result for one item: a value, or an error that names it."""

    index: int
    item: Any
    value: Any = None
    error: ImageError | None = None


class _Job(Result):
    """A result in progress.

    ``data`` is the item or the bytes read from it, to be decoded. ``image`` is set instead if the item had to be
    resized at once.
    """

    __slots__ = ("data", "done", "image")

    def __init__(self, index: int, item: Any) -> None:
        super().__init__(index, item)
        self.data: Any = item
        self.image: Images | None = None
        self.done = False

    def failed(self, error: Exception) -> None:
        self.error = ImageError.of(error, self.index, decode.name_of(self.item))


def stream(
    items: Iterable[Any],
    compute: Compute,
    options: Options,
    *,
    threads: int = 1,
    batch_size: int = 64,
) -> Generator[Result, None, None]:
    """The results of ``compute`` for each item, in order.

    About ``batch_size`` items, or two per thread if that is more, are in memory at a time, including the threads'
    batches. In addition, each thread holds the picture that it decodes. The thread that advances the generator takes
    items from the iterable and reads open files. While it waits for a slow item, the threads finish the items before
    it. Closing the generator stops the threads after their current picture or batch.

    An iterator may change an item when the next one is requested, such as a buffer for all frames of a camera or a
    Pillow picture for all pages. So arrays and Pillow pictures are resized, and mutable bytes copied, before that.
    This is not necessary for the items of a list, a tuple or an array, which all exist from the start.
    """
    if isinstance(items, Sized) and len(items) == 1:  # no threads for one item: starting them costs more than resizing
        yield from _one(next(iter(items)), compute, options, threads)
        return
    workers = _Workers(compute, options, threads, batch_size)
    try:
        yield from workers.run(iter(items), unchanging=type(items) in (list, tuple, np.ndarray))
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
    """Threads that take jobs from a queue. The condition ``_changed`` guards the jobs' state.

    The classes for queue, condition and threads are looked up in each call, because gevent may replace them after this
    module was imported.
    """

    def __init__(self, compute: Compute, options: Options, threads: int, batch_size: int) -> None:
        self._compute, self._options = compute, options
        self._most = max(batch_size, 2 * threads)
        self._batch = max(1, self._most // (2 * threads))
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._stopped = False
        self._ended: BaseException | None = None  # the exception that ended a thread
        self._process = os.getpid()
        self._threads = [threading.Thread(target=self._work, name=f"pictures-{i}", daemon=True) for i in range(threads)]

    def run(self, items: Iterator[Any], *, unchanging: bool) -> Iterator[Result]:
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
                self._submit(job, unchanging)
            if window:
                self._wait_for(window[0])
                job = window.popleft()
                yield Result(job.index, job.item, job.value, job.error)

    def _submit(self, job: _Job, unchanging: bool) -> None:
        try:
            job.data = _readable(job.item)
            if not unchanging:
                self._secure(job)
        except Exception as error:
            job.failed(error)
            job.done = True
        else:
            self._jobs.put(job)

    def _secure(self, job: _Job) -> None:
        """Resize or copy data that the caller may change later."""
        if isinstance(job.data, (str, bytes)):  # first, because numpy's str and bytes scalars look like arrays
            return
        if isinstance(job.data, (bytearray, memoryview)):
            job.data = bytes(job.data)
        elif _is_picture(job.data) or _is_array(job.data):
            job.image = np.empty((*self._options.size, 3), np.float32)
            _load(job.data, self._options, job.image)
            job.data = None

    def _wait_for(self, job: _Job) -> None:
        if self._process != os.getpid():  # a thread of the parent process may hold the lock
            raise RuntimeError("this iterator was started before a fork, so its threads don't exist in this process")
        with self._changed:
            # With a timeout, because on some systems an endless wait can't be interrupted.
            while not self._changed.wait_for(lambda: job.done or self._ended, timeout=0.5):
                pass
            if not job.done and self._ended:
                raise self._ended

    def stop(self) -> None:
        """End the threads. A thread whose picture or batch takes more than a second ends by itself afterwards."""
        if self._process != os.getpid():
            return
        self._stopped = True
        for _ in self._threads:
            self._jobs.put(None)
        until = time.monotonic() + 1
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0, until - time.monotonic()))

    def _work(self) -> None:
        try:
            self._work_loop()
        except BaseException as error:  # not caused by a picture; raised in the thread that waits for results
            with self._changed:
                self._ended = self._ended or error
                self._changed.notify_all()

    def _work_loop(self) -> None:
        images = np.empty((self._batch, *self._options.size, 3), np.float32)
        waiting: list[_Job] = []
        since = 0.0
        buffer = _Buffer()
        while True:
            try:
                job = self._jobs.get(block=not waiting)
            except queue.Empty:
                self._finish(waiting, images)
                continue
            if job is None or self._stopped:
                return
            try:
                if job.image is not None:
                    images[len(waiting)] = job.image
                else:
                    _load(job.data, self._options, images[len(waiting)], buffer)
            except Exception as error:
                job.failed(error)
                self._mark_done([job])
            else:
                since = since if waiting else time.monotonic()
                waiting.append(job)
                if len(waiting) == len(images) or time.monotonic() - since > _MAX_WAIT:
                    self._finish(waiting, images)
            finally:
                job.data = job.image = None

    def _finish(self, jobs: list[_Job], images: Images) -> None:
        for job, value in zip(jobs, self._compute(images[: len(jobs)], 1), strict=True):
            job.value = value
        self._mark_done(jobs)
        jobs.clear()

    def _mark_done(self, jobs: list[_Job]) -> None:
        with self._changed:
            for job in jobs:
                job.done = True
            self._changed.notify_all()


class _Buffer:
    """One thread's memory for decoded pictures. Allocating it for each picture would add a third to the decoding."""

    def __init__(self) -> None:
        self._memory: NDArray[np.uint8] | None = None

    def __call__(self, size: int) -> NDArray[np.uint8]:
        if self._memory is None or len(self._memory) < size:
            self._memory = None  # free the old memory before allocating more
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size]


def _readable(item: Any) -> Any:
    """``item`` itself, or an open file's bytes, read at once because several items may share the file."""
    return decode.read_whole(item, decode.name_of(item)) if hasattr(item, "read") else item


def _is_picture(item: Any) -> bool:
    return hasattr(item, "getexif")


def _is_array(item: Any) -> bool:
    return hasattr(item, "__array__") or hasattr(item, "__array_interface__")


def _load(item: Any, options: Options, out: Images, buffer: _Buffer | None = None) -> None:
    """Load one item, resized into ``out`` [height,width,3]."""
    if isinstance(item, (str, bytes, bytearray, memoryview)) or _is_picture(item) or hasattr(item, "__fspath__"):
        decode.open_picture(item, options, buffer).resize(out, options)
        return
    array = _as_array(item, options)
    if array.shape[2] == 4 and options.rgb:
        if array.dtype == np.uint8:
            pillow.of_rgba(array, options.rgb).resize(out, options)
            return
        array = _on_background(array, options.rgb)
    unit = resizing.UNIT if array.dtype == np.uint8 else np.float32(1)
    resizing.resize_array(array[..., :3], out, options.method, unit, crop=options.crop)


def _as_array(item: Any, options: Options) -> NDArray[Any]:
    """An array of one picture as [H,W,3], or [H,W,4] with alpha, uint8 or float; grey becomes three equal channels."""
    if not _is_array(item):
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
    if array.shape[0] * array.shape[1] > options.max_pixels:
        raise ValueError(f"expected at most {options.max_pixels} pixels, got {array.shape[1]} x {array.shape[0]}")
    return np.broadcast_to(array, (*array.shape[:2], 3)) if array.shape[2] == 1 else array


def _on_background(array: NDArray[Any], background: tuple[int, int, int]) -> NDArray[np.float32]:
    alpha = array[..., 3:].astype(np.float32)
    behind: NDArray[np.float32] = np.array(background, np.float32) * resizing.UNIT * (1 - alpha)
    return array[..., :3].astype(np.float32) * alpha + behind
