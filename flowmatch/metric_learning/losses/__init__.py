"""Losses of embeddings, each ``loss(embeddings [N, D], labels [N]) -> scalar``."""

import inspect
from collections.abc import Callable

from flowmatch.metric_learning.losses._base import SimilarityLoss
from flowmatch.metric_learning.losses.classification import (
    ArcFaceLoss,
    CosFaceLoss,
    NormalisedSoftmaxLoss,
)
from flowmatch.metric_learning.losses.clustering import DeepSpectralLoss, FacilityLocationLoss
from flowmatch.metric_learning.losses.contrastive import ContrastiveLoss, HadsellLoss, SNRLoss
from flowmatch.metric_learning.losses.distillation import RelationalDistillation
from flowmatch.metric_learning.losses.group import GroupLoss, replicator_dynamics
from flowmatch.metric_learning.losses.horde import HordeLoss
from flowmatch.metric_learning.losses.proxies import (
    ProxyNCALoss,
    ProxyNCAPlusPlusLoss,
    SoftTripleLoss,
)
from flowmatch.metric_learning.losses.ranking import FastAPLoss, RankedListLoss
from flowmatch.metric_learning.losses.structured import (
    AngularLoss,
    LiftedStructureLoss,
    MarginLoss,
    MultiSimilarityLoss,
    NPairsAngularLoss,
    NPairsLoss,
)
from flowmatch.metric_learning.losses.triplet import BiasCorrectedTripletLoss, TripletLoss

# In the lecture's order: pairs and triplets, then whole batches, then proxies and classes.
LOSSES: dict[str, Callable[..., SimilarityLoss]] = {
    "contrastive": ContrastiveLoss,
    "hadsell": HadsellLoss,
    "triplet": TripletLoss,
    "lifted": LiftedStructureLoss,
    "npairs": NPairsLoss,
    "angular": AngularLoss,
    "npairs-angular": NPairsAngularLoss,
    "margin": MarginLoss,
    "multi-similarity": MultiSimilarityLoss,
    "snr": SNRLoss,
    "bias-corrected": BiasCorrectedTripletLoss,
    "ranked-list": RankedListLoss,
    "fastap": FastAPLoss,
    "facility-location": FacilityLocationLoss,
    "deep-spectral": DeepSpectralLoss,
    "proxynca": ProxyNCALoss,
    "proxynca++": ProxyNCAPlusPlusLoss,
    "softtriple": SoftTripleLoss,
    "normalised-softmax": NormalisedSoftmaxLoss,
    "cosface": CosFaceLoss,
    "arcface": ArcFaceLoss,
    "group": GroupLoss,
}


def make_loss(name: str, *, classes: int, dimension: int, **options: float) -> SimilarityLoss:
    """Make a loss by its name, with the defaults of its paper.

    Args:
        name: One of `LOSSES`.
        classes: Of the training data; for losses that have parameters for each.
        dimension: Of the embeddings; for losses that have parameters of that size.
        **options: What else its constructor takes.

    Raises:
        ImportError: It is pytorch-metric-learning's, and that is not installed.
        ValueError: There is no such loss or option, or an argument is out of range.

    Example:
        >>> make_loss("hadsell", classes=10, dimension=64, margin=2.0).margin
        2.0
    """
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}")
    wanted = inspect.signature(LOSSES[name]).parameters
    given = {"classes": classes, "dimension": dimension}
    unknown = [option for option in options if option not in wanted or option in given]
    if unknown:
        known = [option for option in wanted if option not in given]
        raise ValueError(
            f"loss {name} takes {', '.join(known) or 'no options'}, got {', '.join(unknown)}"
        )
    for option, value in options.items():
        if isinstance(wanted[option].default, int):
            if value % 1 != 0:  # also of inf and nan
                raise ValueError(f"{option} of loss {name} must be a whole number, got {value}")
            options[option] = int(value)
    return LOSSES[name](**{key: v for key, v in given.items() if key in wanted}, **options)


__all__ = [
    "LOSSES",
    "AngularLoss",
    "ArcFaceLoss",
    "BiasCorrectedTripletLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "DeepSpectralLoss",
    "FacilityLocationLoss",
    "FastAPLoss",
    "GroupLoss",
    "HadsellLoss",
    "HordeLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NPairsAngularLoss",
    "NPairsLoss",
    "NormalisedSoftmaxLoss",
    "ProxyNCALoss",
    "ProxyNCAPlusPlusLoss",
    "RankedListLoss",
    "RelationalDistillation",
    "SNRLoss",
    "SimilarityLoss",
    "SoftTripleLoss",
    "TripletLoss",
    "make_loss",
    "replicator_dynamics",
]
