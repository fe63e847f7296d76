"""fastmnv2's own exceptions. All other errors are built-in exceptions."""

import errno
from typing import TypeGuard

CONTROLS = {
    code: ascii(chr(code))[1:-1]
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
"""For str.translate: escapes for characters that move a terminal's cursor, end a line or change text direction."""

_MACHINES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EAGAIN})


def is_this_machines(error: object) -> TypeGuard[OSError]:
    """Whether this machine's state (disk full, too many open files) caused an error, not the file that was read."""
    return isinstance(error, OSError) and error.errno in _MACHINES


# Errors of the path itself: a retry on the same machine gives the same error.
_PATHS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL})
_NETWORK = frozenset({"aiohttp", "aiobotocore", "asyncio", "botocore", "http", "requests", "urllib3"})
_GONE = frozenset({404, 410})
_REFUSED = frozenset({401, 403, 407, 408, 425, 429})  # HTTP statuses below 500 after which a retry may succeed


def is_transient(error: BaseException) -> bool:
    """Whether this machine or the network caused an error, not the picture, so that a later try may succeed.

    Examples are missing permissions, packages, memory or file handles, and HTTP 503. The causes of ``error`` count too.
    """
    return any(map(_is_transient, _causes(error)))


def is_gone(error: BaseException) -> bool:
    """Whether an error means that a file or URL certainly doesn't exist.

    fsspec raises FileNotFoundError for every failure of HTTP, also if the server is down, and keeps the real error as
    the cause.
    """
    if not isinstance(error, OSError) or is_transient(error):
        return False
    statuses = [status for status in map(_status, _causes(error)) if status is not None]
    missing = isinstance(error, FileNotFoundError) or error.errno == errno.ENOTDIR
    return missing and all(status in _GONE for status in statuses)


def _causes(error: BaseException) -> list[BaseException]:
    """An error and the errors that caused it."""
    found = [error]
    while (cause := found[-1].__cause__) is not None and cause not in found:
        found.append(cause)
    return found


def _status(error: BaseException) -> int | None:
    """An error's HTTP status."""
    names = ("status", "status_code", "code")
    status = next((getattr(error, name, None) for name in names if hasattr(error, name)), None)
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, (ImportError, MemoryError, TimeoutError, ConnectionError)):
        return True
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _REFUSED
    if isinstance(error, OSError) and error.errno is not None:  # Pillow's own OSErrors have no errno
        return error.errno not in _PATHS
    return type(error).__module__.partition(".")[0] in _NETWORK


def text_of(error: BaseException) -> str:
    """An exception's message, or the name of its type if the message is empty or raises itself."""
    try:
        return str(error) or type(error).__name__
    except Exception:
        return type(error).__name__


def printable(text: str, limit: int = 1000) -> str:
    """Make ``text`` safe for terminals and logs: escape control characters and lone surrogates.

    Text above ``limit`` characters loses its middle, or its end if ``limit`` is below 100.
    """
    # Cut first, because text from a file may have megabytes.
    escaped = (sign if sign.isprintable() else ascii(sign)[1:-1] for sign in _shortened(text, limit))
    return _shortened("".join(escaped), limit)


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    if limit < 100:
        return text[: limit - 1] + "…"
    half = limit // 2 - 20
    return f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"


class WeightsError(ValueError):
    """A weights file is malformed, truncated, for another network, or has values that are not finite.

    The message names the file, what is wrong and where, on one line. Nothing is loaded.
    """

    _longest = 1000  # characters

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, self._longest))


class WeightsUnavailable(WeightsError):
    """The default weights are neither configured, embedded, cached nor downloadable."""

    _longest = 4000  # the message lists what was tried, and three remedies


class ImageError(ValueError):
    """One of several pictures can't be read or decoded.

    Attributes:
        index: the picture's position among the items, from 0.
        name: the picture's path or URL; for other items, their type.
        reason: why it can't be read.
        transient: whether this machine or the network caused the error, not the picture, so that a later try may
            succeed: missing permissions, packages or memory, HTTP 503 and the like.
    """

    def __init__(self, index: int, name: str, reason: str, transient: bool = False) -> None:
        super().__init__(f"item {index}, {printable(name)}: {printable(reason)}")
        self.index, self.name, self.reason, self.transient = index, name, reason, transient

    def __reduce__(self) -> tuple[type["ImageError"], tuple[int, str, str, bool]]:
        return type(self), (self.index, self.name, self.reason, self.transient)

    @classmethod
    def of(cls, error: Exception, index: int, name: str) -> "ImageError":
        """An ImageError with the message of ``error``, without the name that the message may begin with."""
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        elif isinstance(error, MemoryError):
            reason = "not enough memory to decode it"
        else:
            # fsspec's errors for URLs are only the URL; the cause says more.
            said = error.__cause__ if error.__cause__ is not None and text_of(error) == name else error
            reason = text_of(said).removeprefix(f"{name}: ")
        found = cls(index, name, reason, is_transient(error))
        found.__cause__ = error
        return found
