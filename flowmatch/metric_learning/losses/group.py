"""Group loss: class probabilities of a batch, refined by the similarity of its items."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning.losses._base import EmbeddingLoss, at_least, check_classes
from flowmatch.metric_learning.tuples import Tuples
from flowmatch.units import unit_vectors


def replicator_dynamics(similarity: Tensor, probabilities: Tensor, rounds: int) -> Tensor:
    """Refine class probabilities by similar items: ``X <- X * (W X)`` with rows scaled to sum 1.

    Args:
        similarity: Similarities ``W``, ``[N, N]``, not negative.
        probabilities: Class probabilities ``X``, ``[N, C]``.
        rounds: Number of iterations.

    Returns:
        ``[N, C]``; a row without support from similar items is 0.

    Example:
        >>> probabilities = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
        >>> replicator_dynamics(torch.ones(2, 2), probabilities, 1)
        tensor([[1.0000, 0.0000],
                [0.7500, 0.2500]])

    Reference:
        Elezi et al., The Group Loss for Deep Metric Learning, ECCV 2020, equation 4.
    """
    for _ in range(rounds):
        supported = probabilities * (similarity @ probabilities)
        total = supported.sum(1, keepdim=True)
        probabilities = supported / torch.where(total > 0, total, 1)
    return probabilities


class GroupLoss(EmbeddingLoss):
    r"""Group loss: cross-entropy of class probabilities that similar items of a batch refine.

    With logits of a linear classifier on ``[N, D]``: ``X = softmax(logits / T)``, where the rows of
    some anchors of each class are replaced by their true class; ``W = max(0, correlation of the
    embeddings)``; `replicator_dynamics`; ``mean_i -log(X_iy + 1e-12) + cross-entropy of the
    logits``. The anchors of a batch are sampled from torch's CPU generator.

    Args:
        classes: Number of classes; labels are ``0..classes - 1``.
        dimension: Dimension of the embeddings.
        temperature: Temperature ``T``; in the paper 24 for birds, 79 for cars, 54 for products.
        anchors: Number of anchors of each class.
        rounds: Number of iterations of the dynamics.

    Raises:
        ValueError: An argument is out of range, or a label.

    Example:
        >>> loss = GroupLoss(classes=2, dimension=2)
        >>> loss(torch.eye(2), torch.tensor([0, 1])).isfinite().item()
        True

    Reference:
        Elezi, Vascon, Torcinovich, Pelillo & Leal-Taixé, The Group Loss for Deep Metric Learning,
        ECCV 2020.
    """

    normalises = False

    def __init__(
        self,
        classes: int,
        dimension: int,
        temperature: float = 24.0,
        anchors: int = 2,
        rounds: int = 1,
    ) -> None:
        super().__init__()
        self.dimension = dimension
        at_least(1, classes=classes, dimension=dimension)
        at_least(0, anchors=anchors, rounds=rounds)
        at_least(1e-6, temperature=temperature)
        self.classes, self.temperature = classes, temperature
        self.anchors, self.rounds = anchors, rounds
        self.classifier = nn.Linear(dimension, classes)

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Compute the cross-entropies of the logits and of the refined probabilities."""
        check_classes(labels, self.classes)
        weight, bias = (p.to(embeddings) for p in (self.classifier.weight, self.classifier.bias))
        logits = F.linear(embeddings, weight, bias)
        if not len(labels):
            return logits.sum()
        truth = F.one_hot(labels, self.classes).to(logits.dtype)
        is_anchor = self.sample_anchors(labels)[:, None]
        initial = torch.where(is_anchor, truth, (logits / self.temperature).softmax(1))
        centred = unit_vectors(embeddings - embeddings.mean(1, keepdim=True), least=1e-8)
        refined = replicator_dynamics((centred @ centred.T).relu(), initial, self.rounds)
        refined_loss = F.nll_loss((refined + 1e-12).log(), labels)
        return refined_loss + F.cross_entropy(logits, labels)

    def sample_anchors(self, labels: Tensor) -> Tensor:
        """Sample the anchors of each class, at most as many as it has items; ``[N]`` bool."""
        is_anchor = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        for label in torch.unique(labels):
            members = torch.where(labels == label)[0]
            sample = torch.randperm(len(members))[: self.anchors].to(members.device)
            is_anchor[members[sample]] = True
        return is_anchor
