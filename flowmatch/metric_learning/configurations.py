"""Hyper-parameters that the search of a comparison tries, the same number for each method."""

from collections.abc import Mapping
from dataclasses import dataclass

# Three configurations of each method: the option in SEARCHED at both of its values with the first
# rate, and at the first value with the second rate; without an option, three rates.
RATES = (3e-3, 1e-2)
RATES_ALONE = (1e-3, 3e-3, 1e-2)
# For each loss, the option that its paper tunes: the paper's value, and one for small embeddings.
SEARCHED: dict[str, tuple[str, float, float]] = {
    "contrastive": ("margin", 1.0, 0.5),
    "hadsell": ("margin", 1.0, 2.0),
    "triplet": ("margin", 0.2, 0.1),
    "lifted": ("margin", 1.0, 0.5),
    "npairs": ("weight", 0.005, 0.05),
    "angular": ("degrees", 45.0, 36.0),
    "npairs-angular": ("degrees", 45.0, 36.0),
    "margin": ("beta", 1.2, 0.8),
    "multi-similarity": ("beta", 50.0, 20.0),
    "snr": ("margin", 1.0, 0.5),
    "bias-corrected": ("margin", 0.2, 0.1),
    "circle": ("scale", 80.0, 20.0),
    "supcon": ("temperature", 0.1, 0.3),
    "nt-xent": ("temperature", 0.1, 0.3),
    "cross-batch-memory": ("size", 512, 128),
    "ranked-list": ("margin", 0.4, 0.2),
    "fastap": ("bins", 10, 20),
    "facility-location": ("gamma", 1.0, 0.2),
    "proxynca": ("scale", 9.0, 18.0),
    "proxynca++": ("temperature", 1 / 9, 1 / 18),
    "proxy-anchor": ("scale", 32.0, 16.0),
    "softtriple": ("scale", 20.0, 10.0),
    "normalised-softmax": ("temperature", 0.05, 0.1),
    "cosface": ("scale", 64.0, 16.0),
    "arcface": ("scale", 64.0, 16.0),
    "sub-centre-arcface": ("scale", 64.0, 16.0),
    "group": ("temperature", 24.0, 8.0),
}


@dataclass(frozen=True)
class Configuration:
    """Hyper-parameters of a method.

    Attributes:
        rate: Learning rate.
        options: Arguments of the loss's constructor.
    """

    rate: float
    options: Mapping[str, float]

    def __str__(self) -> str:
        words = [f"{name} {value:.3g}" for name, value in self.options.items()]
        return ", ".join([*words, f"rate {self.rate:g}"])


def configurations(name: str) -> list[Configuration]:
    """Return the configurations that the search tries, the same number for every method.

    Args:
        name: Name in `LOSSES` or `METHODS`, or a loss with a miner as ``LOSS@MINER``.

    Example:
        >>> print(configurations("triplet")[0])
        margin 0.2, rate 0.003
    """
    name = name.partition("@")[0]
    if name not in SEARCHED:
        return [Configuration(rate, {}) for rate in RATES_ALONE]
    option, first, second = SEARCHED[name]
    return [
        Configuration(RATES[0], {option: first}),
        Configuration(RATES[0], {option: second}),
        Configuration(RATES[1], {option: first}),
    ]
