"""Pictures by the batch: found, decoded ahead in threads, handed out in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fastmnv2 import threads
from fastmnv2.image.decode import MAX_PIXELS, load_image
from fastmnv2.image.find import find

_Image = NDArray[np.float32]


class Pictures:
    """Picture files behind paths, folders and globs; ``batches`` goes through them once.

    ``paths`` are sorted, each file once. A path that is named, or that a glob matches, is taken whatever its
    suffix; folders are searched for ``SUFFIXES``, hidden files and folders left out. What can't be
    read is handed to ``skip`` (path, why), counted in ``skipped`` and left out; ``read`` counts the rest.
    """

    def __init__(
        self,
        arguments: Iterable[str],
        skip: Callable[[str, str], None],
        *,
        recursive: bool = True,
        exif: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.read = self.skipped = 0
        self._report, self._exif, self._max_pixels = skip, exif, max_pixels
        self.paths = find(arguments, self._skip, recursive=recursive)

    def _skip(self, path: str, why: object) -> None:
        self.skipped += 1
        self._report(path, str(why))

    def batches(self, size: int) -> Iterator[tuple[list[str], _Image]]:
        """Up to ``size`` paths at a time, and their pictures as float32 ``[n,96,96,3]`` in [0,1]."""
        paths: list[str] = []
        images: list[_Image] = []
        for path, future in self._decoded(ahead=size):
            try:
                picture = future.result()
            except (OSError, ValueError, MemoryError) as error:
                self._skip(path, _reason(error, path))
                continue
            paths.append(path)
            images.append(picture)
            if len(paths) == size:
                self.read += size
                yield paths, np.stack(images)
                paths, images = [], []
        if paths:
            self.read += len(paths)
            yield paths, np.stack(images)

    def _decoded(self, ahead: int) -> Iterator[tuple[str, "Future[_Image]"]]:
        workers = min(threads.available(), 4)  # each may hold a picture of the largest size
        waiting: deque[tuple[str, Future[_Image]]] = deque()
        with ThreadPoolExecutor(workers, "decode") as pool:
            try:
                for path in self.paths:
                    load = pool.submit(load_image, path, exif=self._exif, max_pixels=self._max_pixels)
                    waiting.append((path, load))
                    if len(waiting) >= ahead + workers:
                        yield waiting.popleft()
                while waiting:
                    yield waiting.popleft()
            finally:  # on an exception or Ctrl-C: don't decode what nobody waits for
                pool.shutdown(cancel_futures=True)


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    return str(error).removeprefix(f"{path}: ")
