"""The exceptions that are fastmnv2's own; anything else raised is a builtin."""


class WeightsError(ValueError):
    """A weights file is malformed, truncated, for another network, or holds values that are not finite.

    The message names the file, what is wrong and where. Nothing is loaded.
    """


class WeightsUnavailable(WeightsError):
    """The default weights are neither configured, embedded, cached nor downloadable."""
