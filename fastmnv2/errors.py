"""The exceptions that are fastmnv2's own; anything else raised is a builtin."""

import errno
from typing import TypeGuard


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
