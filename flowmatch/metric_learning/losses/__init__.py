"""Losses of embeddings, each ``loss(embeddings [N, D], labels [N]) -> scalar``."""

import inspect
from collections.abc import Callable

from flowmatch.metric_learning.losses._base import EmbeddingLoss
from flowmatch.metric_learning.losses.classification import (
    ArcFaceLoss,
    CosFaceLoss,
    NormalisedSoftmaxLoss,
    SubCentreArcFaceLoss,
)
from flowmatch.metric_learning.losses.clustering import DeepSpectralLoss, FacilityLocationLoss
from flowmatch.metric_learning.losses.contrastive import ContrastiveLoss, HadsellLoss, SNRLoss
from flowmatch.metric_learning.losses.distillation import RelationalDistillation
from flowmatch.metric_learning.losses.group import GroupLoss, replicator_dynamics
from flowmatch.metric_learning.losses.horde import HordeLoss
from flowmatch.metric_learning.losses.memory import CrossBatchMemoryLoss
from flowmatch.metric_learning.losses.proxies import (
    ProxyAnchorLoss,
    ProxyNCALoss,
    ProxyNCAPlusPlusLoss,
    SoftTripleLoss,
)
from flowmatch.metric_learning.losses.ranking import FastAPLoss, RankedListLoss
from flowmatch.metric_learning.losses.similarities import CircleLoss, NTXentLoss, SupConLoss
from flowmatch.metric_learning.losses.structured import (
    AngularLoss,
    LiftedStructureLoss,
    MarginLoss,
    MultiSimilarityLoss,
    NPairsAngularLoss,
    NPairsLoss,
)
from flowmatch.metric_learning.losses.triplet import BiasCorrectedTripletLoss, TripletLoss

# Losses of pairs and triplets, then of whole batches, then with proxies or classifiers.
LOSSES: dict[str, Callable[..., EmbeddingLoss]] = {
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
    "circle": CircleLoss,
    "supcon": SupConLoss,
    "nt-xent": NTXentLoss,
    "cross-batch-memory": CrossBatchMemoryLoss,
    "ranked-list": RankedListLoss,
    "fastap": FastAPLoss,
    "facility-location": FacilityLocationLoss,
    "deep-spectral": DeepSpectralLoss,
    "proxynca": ProxyNCALoss,
    "proxynca++": ProxyNCAPlusPlusLoss,
    "proxy-anchor": ProxyAnchorLoss,
    "softtriple": SoftTripleLoss,
    "normalised-softmax": NormalisedSoftmaxLoss,
    "cosface": CosFaceLoss,
    "arcface": ArcFaceLoss,
    "sub-centre-arcface": SubCentreArcFaceLoss,
    "group": GroupLoss,
}


def make_loss(name: str, *, classes: int, dimension: int, **options: float) -> EmbeddingLoss:
    """Make a loss by name, with the defaults of its paper.

    Args:
        name: Name in `LOSSES`.
        classes: Number of classes of the training data, for losses with parameters per class.
        dimension: Dimension of the embeddings, for losses with parameters of that size.
        **options: Other arguments of the loss's constructor.

    Raises:
        ImportError: The loss needs pytorch-metric-learning, which is not installed.
        ValueError: The loss or an option is unknown, or an argument is out of range.

    Example:
        >>> make_loss("hadsell", classes=10, dimension=64, margin=2.0).margin
        2.0
    """
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}")
    parameters = inspect.signature(LOSSES[name]).parameters
    sizes = {"classes": classes, "dimension": dimension}
    unknown = [option for option in options if option not in parameters or option in sizes]
    if unknown:
        known = [option for option in parameters if option not in sizes]
        raise ValueError(
            f"loss {name} takes {', '.join(known) or 'no options'}, got {', '.join(unknown)}"
        )
    for option, value in options.items():
        if isinstance(parameters[option].default, int):
            if value % 1 != 0:  # true for inf and nan, too
                raise ValueError(f"{option} of loss {name} must be a whole number, got {value}")
            options[option] = int(value)
    return LOSSES[name](**{key: v for key, v in sizes.items() if key in parameters}, **options)


__all__ = [
    "LOSSES",
    "AngularLoss",
    "ArcFaceLoss",
    "BiasCorrectedTripletLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CrossBatchMemoryLoss",
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
    "NTXentLoss",
    "NormalisedSoftmaxLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "ProxyNCAPlusPlusLoss",
    "RankedListLoss",
    "RelationalDistillation",
    "SNRLoss",
    "EmbeddingLoss",
    "SoftTripleLoss",
    "SubCentreArcFaceLoss",
    "SupConLoss",
    "TripletLoss",
    "make_loss",
    "replicator_dynamics",
]
