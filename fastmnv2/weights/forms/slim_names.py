"""TF-Slim's names of variables, as checkpoints, graphs and exports of other libraries spell them."""

from fastmnv2.core.network import DEFAULT, shapes

EMA = "/ExponentialMovingAverage"
"""The suffix of a moving average's name."""

# Every variable that a network can use, without prefixes. All networks have the same names.
VARIABLES = frozenset(shapes(DEFAULT.layers, folded=False) | shapes(DEFAULT.layers, folded=True))


def slim_name(name: str) -> str | None:
    """The network's name of a variable such as ``module/MobilenetV2/…`` in a file; None if it has no such variable."""
    plain = name.removesuffix(EMA)
    start = plain.find("MobilenetV2/")
    if start > 0 and plain[start - 1] != "/":
        return None
    plain = plain[start:] if start > 0 else plain
    return plain if plain in VARIABLES else None
