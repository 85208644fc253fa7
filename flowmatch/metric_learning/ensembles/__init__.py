"""Ensembles within one network: embedding slices, boosted learners, cascades, attention masks."""

from flowmatch.metric_learning.ensembles.attention import AttentionEnsemble, AttentionEnsembleLoss
from flowmatch.metric_learning.ensembles.boosting import (
    ActivationDiversity,
    AdversarialDiversity,
    BierLoss,
    BoostedHeads,
)
from flowmatch.metric_learning.ensembles.cascade import CascadeLoss, hardest
from flowmatch.metric_learning.ensembles.divide import (
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
