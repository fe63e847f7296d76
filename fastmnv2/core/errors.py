"""The exceptions that are fastmnv2's own; anything else raised is a builtin."""

import errno
from typing import TypeGuard

CONTROLS = {
    code: ascii(chr(code))[1:-1]
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
"""For str.translate: escapes of what moves a terminal's cursor, ends a line, or turns the direction of text."""

_MACHINES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EAGAIN})


def is_this_machines(error: object) -> TypeGuard[OSError]:
    """Whether an error is about this machine's state (no room, no file to open), not about what was to be read."""
    return isinstance(error, OSError) and error.errno in _MACHINES


def printable(text: str, limit: int = 1000) -> str:
    """``text`` as any terminal and log takes it: control characters and lone surrogates escaped, its middle cut out."""
    # What a file says of itself may be anything. Cut first: there may be megabytes of it.
    escaped = (sign if sign.isprintable() else ascii(sign)[1:-1] for sign in _shortened(text, limit))
    return _shortened("".join(escaped), limit)


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2 - 20
    return f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"


class WeightsError(ValueError):
    """A weights file is malformed, truncated, for another network, or holds values that are not finite.

    The message names the file, what is wrong and where, on one line. Nothing is loaded.
    """

    _longest = 1000  # characters

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, self._longest))


class WeightsUnavailable(WeightsError):
    """The default weights are neither configured, embedded, cached nor downloadable."""

    _longest = 4000  # it tells what was tried, and three ways out


class ImageError(ValueError):
    """A picture among several can't be read or decoded.

    Attributes:
        index: its place among the items, from 0 on.
        name: its path or URL, or what kind of thing it is.
        reason: what is wrong with it.
    """

    def __init__(self, index: int, name: str, reason: str) -> None:
        super().__init__(f"item {index}, {printable(name)}: {printable(reason)}")
        self.index, self.name, self.reason = index, name, reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[int, str, str]]:
        return type(self), (self.index, self.name, self.reason)

    @classmethod
    def of(cls, error: Exception, index: int, name: str) -> "ImageError":
        """What ``error`` says, without the name, which it may begin with."""
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        elif isinstance(error, MemoryError):
            reason = "not enough memory to decode it"
        else:
            reason = (str(error) or type(error).__name__).removeprefix(f"{name}: ")
        found = cls(index, name, reason)
        found.__cause__ = error
        return found
