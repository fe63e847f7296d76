"""Long jobs: ``fastmnv2 embed -o FOLDER/`` updates a folder of vectors, and can be interrupted and resumed.

``fastmnv2.image.parts`` describes the folder. A run computes new pictures, pictures whose size, time or ETag has
changed, and pictures with a transient error, which the machine or the network caused. A transient error never replaces
an existing vector.
"""

import contextlib
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from fastmnv2.core.atomic import locked
from fastmnv2.core.errors import is_gone
from fastmnv2.core.model import Model
from fastmnv2.core.progress import progress
from fastmnv2.image import keys
from fastmnv2.image.decode import Options
from fastmnv2.image.inputs import Pictures
from fastmnv2.image.parts import Known, Parts, Row, State
from fastmnv2.image.stream import stream


@dataclass(frozen=True)
class Settings:
    """The command line's options for folders.

    Attributes:
        normalize: scale each vector to length 1.
        float16: store float16.
        prune: drop the rows of pictures that no longer exist.
        retry_errors: retry all pictures with an error, not only those with a transient one.
        engine: "local" or "ray".
        threads: the number of threads of the local engine.
    """

    normalize: bool = False
    float16: bool = False
    prune: bool = False
    retry_errors: bool = False
    engine: str = "local"
    threads: int | None = None


class Done(NamedTuple):
    """The outcome for one picture: its name, and a vector or an error."""

    name: str
    vector: NDArray[Any] | None
    error: str | None = None
    transient: bool = False


class CannotPrune(ValueError):
    """Everything was done except pruning, because it is unknown which pictures no longer exist."""


def embed_to_folder(model: Model, pictures: Pictures, folder: Path, settings: Settings) -> dict[str, int]:
    """Compute the vectors of ``pictures`` that are missing in ``folder`` or out of date.

    Returns:
        Counts by name: ``pictures`` is the number of vectors in the folder. The others are present if they are not 0:
        ``new``, ``changed``, ``retried`` and ``dropped`` are rows that this run added or removed, ``errors`` are rows
        with an error, and ``missing`` are pictures that ``prune`` kept because their folder is missing or empty.

    Raises:
        ValueError: if the folder holds features with other settings, or other files.
        CannotPrune: if ``prune`` is set and a source can't be searched.
        OSError: if the folder can't be written to, or another process is writing to it.
        ImportError: if pyarrow (or ray) is not installed.
        KeyboardInterrupt: if interrupted, with a message that tells how much the folder holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        made_with = _made_with(model, pictures.options, settings)
        parts = Parts(folder, made_with, _picture_options(Options()), model.network.features)
        todo = _Todo(pictures.names(), parts, retry_errors=settings.retry_errors)
        try:
            _run(model, pictures, parts, todo, settings)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted; {folder} has the features of {parts.good:,} pictures, and the same command resumes "
                "from there"
            ) from None
        counts = dict(todo.counts)
        obstacle = None
        if settings.prune:
            obstacle = _why_not_prune(pictures, parts)
            gone, missing = _gone(pictures, parts, todo) if obstacle is None else ([], 0)
            counts |= {"dropped": parts.drop(gone), "missing": missing}
        parts.finish()
        if obstacle is not None:
            raise CannotPrune(obstacle)
        counts |= {"errors": parts.bad}
        return {"pictures": parts.good, **{name: number for name, number in counts.items() if number}}


def _made_with(model: Model, options: Options, settings: Settings) -> dict[str, Any]:
    """All settings that the features depend on."""
    return {
        "weights": model.features_digest,
        "network": model.network.name,
        "precision": model.precision,
        "normalize": settings.normalize,
        "float16": settings.float16,
        **_picture_options(options),
    }


def _picture_options(options: Options) -> dict[str, Any]:
    """The options that change features. ``max_pixels`` only causes errors, and the size is the network's."""
    return {name: value for name, value in asdict(options).items() if name not in ("max_pixels", "size")}


def _run(model: Model, pictures: Pictures, parts: Parts, todo: "_Todo", settings: Settings) -> None:
    engine = {"local": _local, "ray": _on_ray}[settings.engine]
    try:
        with (
            contextlib.closing(engine(model, todo, pictures, settings)) as results,
            progress("embedding", pictures.total, unit="pictures") as advance,
        ):
            for done in results:
                if done.error is not None:
                    pictures.failed(done.name, done.error)
                row = todo.row_of(done)
                if row is not None:
                    parts.append(row)
                advance(len(todo.seen))
    finally:  # keep finished rows after any error or interruption
        parts.save()


class _Todo:
    """The pictures whose rows are missing or out of date, each once.

    Attributes:
        seen: keys of all pictures so far.
        missing: keys of pictures that don't exist.
        counts: the numbers of "new", "changed" and "retried" rows.
    """

    def __init__(self, names: Iterable[str], parts: Parts, *, retry_errors: bool) -> None:
        self._names, self._parts, self._retry_errors = names, parts, retry_errors
        self._pending: dict[str, tuple[State, str]] = {}  # state and reason of each picture in progress, by key
        self.seen: set[str] = set()
        self.missing: set[str] = set()
        self.counts = {"new": 0, "changed": 0, "retried": 0}

    def __iter__(self) -> Iterator[str]:
        for name in self._names:
            key = keys.key(name)
            if key in self.seen:
                continue
            self.seen.add(key)
            state = _state_of(name)  # before reading the picture, so that the next run notices a change in between
            reason = self._reason(self._parts.known.get(key), state)
            if reason:
                self._pending[key] = state, reason
                yield name

    def _reason(self, known: Known | None, state: State) -> str:
        if known is None:
            return "new"
        if known.bad and (known.transient or self._retry_errors):
            return "retried"
        return "" if known.state == state else "changed"

    def row_of(self, done: Done) -> Row | None:
        """The row to store; None if the picture's old row stays."""
        key = keys.key(done.name)
        state, reason = self._pending.pop(key)
        unknown = state == State()
        if done.error is not None and unknown and _is_gone(key):
            self.missing.add(key)
        known = self._parts.known.get(key)
        if done.error is not None and known is not None and not known.bad and (done.transient or unknown):
            return None
        self.counts[reason] += 1
        return Row(key, state, done.vector, done.error, done.transient)


def _state_of(name: str) -> State:
    """The current state of a file or URL."""
    place = keys.local(name)
    try:
        if place is not None:
            found = os.stat(place)
            return State(found.st_size, _int64(found.st_mtime_ns))
        if keys.is_data(name):
            return State()
        import fsspec

        system, path = fsspec.core.url_to_fs(name)
        info = system.info(path)
    except Exception:  # decoding the picture reports the error
        return State()
    size = info.get("size")
    tags = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime")
    tag = next((str(info[tag]) for tag in tags if info.get(tag)), None)
    return State(_int64(size) if isinstance(size, int) else None, None, None if tag is None else keys.text(tag))


def _int64(number: int) -> int:
    """A number as a signed 64-bit integer. Times after 2262 wrap around, but stay distinct."""
    return (number + 2**63) % 2**64 - 2**63


def _local(model: Model, todo: _Todo, pictures: Pictures, settings: Settings) -> Generator[Done, None, None]:
    def compute(images: Any, threads: int) -> Any:
        return model.embed(images, threads=threads, normalize=settings.normalize)

    threads = model.thread_count(settings.threads)
    options = replace(pictures.options, size=model.network.size)
    results = stream(todo, compute, options, threads=threads, batch_size=pictures.batch_size)
    with contextlib.closing(results):
        for result in results:
            if result.error is None:
                yield Done(result.item, result.value)
            else:
                yield Done(result.item, None, result.error.reason, result.error.transient)


def _on_ray(model: Model, todo: _Todo, pictures: Pictures, settings: Settings) -> Generator[Done, None, None]:
    from fastmnv2.ray import embed_names

    # Absolute, because the cluster's processes work in other directories.
    names = [name if keys.is_url(name) else str(Path(name).absolute()) for name in todo]
    options = replace(pictures.options, size=model.network.size)
    found = embed_names(model, names, options, batch_size=pictures.batch_size, normalize=settings.normalize)
    with contextlib.closing(found):
        for name, vector, error, transient in found:
            yield Done(name, vector, error, transient)


# ---- pruning ----


def _why_not_prune(pictures: Pictures, parts: Parts) -> str | None:
    """The reason why deleted pictures can't be determined; None if they can."""
    bad = dict(pictures.unlisted)
    for folder in pictures.empty:
        inside = keys.key(folder).rstrip(os.sep) + os.sep
        if any(key.startswith(inside) for key in parts.known):
            bad[folder] = "no longer contains a picture, which may mean that a disk is not mounted"
    for source in [source for source in bad if keys.key(source) in parts.known]:
        del bad[source]  # the argument was a picture, not a folder
    if not bad:
        return None
    reasons = "; ".join(f"{source}: {reason}" for source, reason in bad.items())
    return f"--prune dropped nothing, because a source can't be searched; everything else is done. {reasons}"


def _gone(pictures: Pictures, parts: Parts, todo: _Todo) -> tuple[list[str], int]:
    """Keys of pictures that no longer exist, and the number of missing pictures that may come back.

    A missing picture counts as deleted if this run searched a source that contains it, or if its folder has other
    files. Neither is true for a disk that is not mounted.
    """
    searched = [keys.key(folder).rstrip(os.sep) + os.sep for folder in pictures.searched]
    populated: dict[str, bool] = {}
    gone, missing = [], 0
    for key in parts.known:
        if (key in todo.seen and key not in todo.missing) or not _is_gone(key):
            continue
        path = keys.path_of(key)
        if path is not None and not any(key.startswith(folder) for folder in searched):
            parent = os.path.dirname(path)
            if parent not in populated:
                populated[parent] = _is_populated(parent)
            if not populated[parent]:
                missing += 1
                continue
        gone.append(key)
    return gone, missing


def _is_gone(key: str) -> bool:
    """Whether a picture certainly doesn't exist; False if that is unknown."""
    path = keys.path_of(key)
    try:
        if path is not None:
            os.lstat(path)
        elif not keys.is_data(key):
            import fsspec

            system, place = fsspec.core.url_to_fs(key)
            system.info(place)
    except Exception as error:
        return is_gone(error)
    return False


def _is_populated(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False
