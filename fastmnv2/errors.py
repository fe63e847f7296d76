"""The exceptions that are fastmnv2's own; anything else raised is a builtin."""


def printable(text: str, limit: int = 1000) -> str:
    """``text`` as any terminal and log takes it: control characters and lone surrogates escaped, its middle cut out."""
    if len(text) > limit:
        cut = len(text) - limit
        text = f"{text[: limit // 2]} … {cut} characters … {text[-limit // 2 :]}"
    # What a file says of itself may be anything.
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


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
