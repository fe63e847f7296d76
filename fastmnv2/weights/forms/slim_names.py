"""TF-Slim's names of variables, as checkpoints, graphs and exports of other libraries spell them."""

from fastmnv2.core.network import DEFAULT, shapes

EMA = "/ExponentialMovingAverage"
"""What follows the name of a moving average."""

# Every variable that a network can use, without any prefix: the names are the same for all of them.
VARIABLES = frozenset(shapes(DEFAULT.layers, folded=False) | shapes(DEFAULT.layers, folded=True))


def slim_name(name: str) -> str | None:
    """The network's variable that a tensor of the file holds, if any: ``module/MobilenetV2/…`` and the like."""
    plain = name.removesuffix(EMA)
    start = plain.find("MobilenetV2/")
    if start > 0 and plain[start - 1] != "/":
        return None
    plain = plain[start:] if start > 0 else plain
    return plain if plain in VARIABLES else None
