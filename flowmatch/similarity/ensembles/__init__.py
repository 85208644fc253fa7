"""Ensembles within one network: slices, boosted learners, cascades, attentions."""

from flowmatch.similarity.ensembles.attention import AttentionEnsemble, AttentionEnsembleLoss
from flowmatch.similarity.ensembles.boosting import (
    ActivationDiversity,
    AdversarialDiversity,
    BierLoss,
    BoostedHeads,
)
from flowmatch.similarity.ensembles.cascade import CascadeLoss, hardest
from flowmatch.similarity.ensembles.divide import (
    ClusterBatches,
    DivideAndConquerLoss,
    DividedEmbedding,
    divide,
    match_clusters,
)

__all__ = [
    "ActivationDiversity",
    "AdversarialDiversity",
    "AttentionEnsemble",
    "AttentionEnsembleLoss",
    "BierLoss",
    "BoostedHeads",
    "CascadeLoss",
    "ClusterBatches",
    "DivideAndConquerLoss",
    "DividedEmbedding",
    "divide",
    "hardest",
    "match_clusters",
]
