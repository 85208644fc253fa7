"""Similarity learning, of whatever is embedded: patches, fragments, images.

- `losses`: pairs, triplets, ranked lists, proxies, classes, clusterings; ``LOSSES`` by name, each
  ``loss(embeddings [N, D], labels [N]) -> scalar``. `HordeLoss` and `RelationalDistillation` add to
  them.
- `miners` choose the pairs or triplets of a batch, `samplers` and `hierarchy` the batch.
- `ensembles`: Divide and Conquer, BIER and A-BIER, HDC, ABE.
- `images`, `datasets`, `networks`, `fit`, `methods`, `protocol`: train any of it on pictures, and
  compare.
- `metrics` of retrieval and clustering, `verification` of pairs, `enrolment` of classes that were
  not trained on.

What pytorch-metric-learning has is wrapped, with the arguments that make it the paper's; it and
scikit-learn come with ``pip install 'flowmatch[train]'``, and are imported when first used.

Not implemented, because no text from which they could be rebuilt faithfully was to be had:

- DAMLRRM (Xu et al., Deep Asymmetric Metric Learning via Rich Relationship Mining, CVPR 2019): two
  streams of data of unequal length, positives along each class's minimum spanning tree. Its exact
  loss, and how the streams are formed, are not public outside the paper.
- DE-DSP (Duan et al., Deep Embedding Learning with Discriminative Sampling Policy, CVPR 2019): a
  sampler that is learned jointly with the embedding; its network and training are not public
  either.
"""

from flowmatch.metric_learning.enrolment import Answer, Enrolment, enrol
from flowmatch.metric_learning.hierarchy import (
    ClassTree,
    HierarchicalTripletLoss,
    NeighbourhoodBatches,
)
from flowmatch.metric_learning.losses import (
    LOSSES,
    HordeLoss,
    RelationalDistillation,
    SimilarityLoss,
    make_loss,
)
from flowmatch.metric_learning.metrics import (
    ClusteringScores,
    RetrievalScores,
    clustering_scores,
    compare_clusterings,
    retrieval_scores,
)
from flowmatch.metric_learning.miners import MINERS, Miner
from flowmatch.metric_learning.samplers import ClassBatches
from flowmatch.metric_learning.tuples import Pairs, Triplets, all_pairs, all_triplets
from flowmatch.metric_learning.verification import Roc, Verification, roc, verify

__all__ = [
    "LOSSES",
    "MINERS",
    "Answer",
    "ClassBatches",
    "ClassTree",
    "ClusteringScores",
    "Enrolment",
    "HierarchicalTripletLoss",
    "HordeLoss",
    "Miner",
    "NeighbourhoodBatches",
    "Pairs",
    "RelationalDistillation",
    "RetrievalScores",
    "Roc",
    "SimilarityLoss",
    "Triplets",
    "Verification",
    "all_pairs",
    "all_triplets",
    "clustering_scores",
    "compare_clusterings",
    "enrol",
    "make_loss",
    "retrieval_scores",
    "roc",
    "verify",
]
