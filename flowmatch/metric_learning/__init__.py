"""Metric learning: losses, miners and networks for embeddings of anything, such as images.

- `losses`: losses of pairs, triplets, ranked lists, proxies, classifiers and clusterings, each
  ``loss(embeddings [N, D], labels [N]) -> scalar``; ``LOSSES`` has them by name. `HordeLoss` and
  `RelationalDistillation` are added to them.
- `miners` select the pairs or triplets of a batch; `samplers` and `hierarchy` select the batch.
- `ensembles`: Divide and Conquer, BIER and A-BIER, HDC, ABE.
- `data`, `networks`, `fit`, `methods`: datasets, backbones and training; `store`: files of weights.
- `metrics`, `verification`, `enrolment`: retrieval and clustering metrics, verification of pairs,
  recognition of classes without training.
- `protocol`, `benchmark`: comparisons of all losses, the second with hyper-parameters chosen on
  validation classes, and a file for each run.
- `distributed`: losses of a batch that several processes share.

Losses and miners of pytorch-metric-learning are wrapped with arguments that reproduce the papers.
That package and scikit-learn are installed by ``pip install 'flowmatch[train]'`` and imported on
first use.

Two methods are experimental reconstructions, because no public description is precise enough: the
docstrings in `methods.experimental` of DAMLRRM (Xu et al., CVPR 2019) and DE-DSP (Duan et al.,
CVPR 2019) say which steps are interpretations.
"""

from flowmatch.metric_learning.enrolment import Enrolment, Identification, enrol
from flowmatch.metric_learning.fit import Recipe, embed, train_embedding
from flowmatch.metric_learning.hierarchy import (
    ClassTree,
    HierarchicalTripletLoss,
    NeighbourhoodBatches,
)
from flowmatch.metric_learning.losses import (
    LOSSES,
    EmbeddingLoss,
    HordeLoss,
    RelationalDistillation,
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
from flowmatch.metric_learning.networks import BACKBONES, MODELS, EmbeddingNet
from flowmatch.metric_learning.samplers import ClassBatches
from flowmatch.metric_learning.store import available, load, save_weights
from flowmatch.metric_learning.tuples import Pairs, Triplets, all_pairs, all_triplets
from flowmatch.metric_learning.verification import Roc, Verification, roc, verify_pairs

__all__ = [
    "BACKBONES",
    "LOSSES",
    "MINERS",
    "MODELS",
    "ClassBatches",
    "ClassTree",
    "ClusteringScores",
    "EmbeddingLoss",
    "EmbeddingNet",
    "Enrolment",
    "HierarchicalTripletLoss",
    "HordeLoss",
    "Identification",
    "Miner",
    "NeighbourhoodBatches",
    "Pairs",
    "Recipe",
    "RelationalDistillation",
    "RetrievalScores",
    "Roc",
    "Triplets",
    "Verification",
    "all_pairs",
    "all_triplets",
    "available",
    "clustering_scores",
    "compare_clusterings",
    "embed",
    "enrol",
    "load",
    "make_loss",
    "retrieval_scores",
    "roc",
    "save_weights",
    "train_embedding",
    "verify_pairs",
]
