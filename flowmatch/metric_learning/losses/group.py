"""Group loss: a batch agrees on its classes before it is judged."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning.losses._base import SimilarityLoss, at_least, check_classes
from flowmatch.metric_learning.tuples import Tuples


def replicator_dynamics(similarity: Tensor, beliefs: Tensor, rounds: int) -> Tensor:
    """Let neighbours agree: ``X <- X * (W X)``, each row scaled to sum 1, some rounds.

    Args:
        similarity: ``W``, ``[N, N]``, not negative.
        beliefs: ``X``, ``[N, C]``, rows of probabilities.
        rounds: How many.

    Returns:
        ``[N, C]``; a row that nobody supports is 0.

    Example:
        >>> beliefs = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
        >>> replicator_dynamics(torch.ones(2, 2), beliefs, 1)
        tensor([[1.0000, 0.0000],
                [0.7500, 0.2500]])

    Reference:
        Elezi et al., The Group Loss for Deep Metric Learning, ECCV 2020, equation 4.
    """
    for _ in range(rounds):
        supported = beliefs * (similarity @ beliefs)
        total = supported.sum(1, keepdim=True)
        beliefs = supported / torch.where(total > 0, total, 1)
    return beliefs


class GroupLoss(SimilarityLoss):
    r"""Group loss: classifications of a batch, refined by who resembles whom.

    With logits of a linear classifier on ``[N, D]``: ``X = softmax(logits / T)``, the rows of some
    items of each class replaced by the truth; ``W = max(0, correlation of the embeddings)``;
    `replicator_dynamics`; ``mean_i -log(X_iy + 1e-12) + cross-entropy of the logits``. Items that
    are told the truth are drawn anew each time, from torch's generator of the CPU.

    Args:
        classes: How many; labels are ``0..classes - 1``.
        dimension: D.
        temperature: ``T``; the authors' 24 for birds, 79 cars, 54 products.
        anchors: Items of each class that are told the truth.
        rounds: Of the dynamics.

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

    def __init__(
        self,
        classes: int,
        dimension: int,
        temperature: float = 24.0,
        anchors: int = 2,
        rounds: int = 1,
    ) -> None:
        super().__init__()
        at_least(1, classes=classes, dimension=dimension)
        at_least(0, anchors=anchors, rounds=rounds)
        at_least(1e-6, temperature=temperature)
        self.classes, self.temperature = classes, temperature
        self.anchors, self.rounds = anchors, rounds
        self.classifier = nn.Linear(dimension, classes)

    def compute(self, embeddings: Tensor, labels: Tensor, tuples: Tuples | None) -> Tensor:
        """Classify, agree, judge both."""
        check_classes(labels, self.classes)
        weight, bias = (p.to(embeddings) for p in (self.classifier.weight, self.classifier.bias))
        logits = F.linear(embeddings, weight, bias)
        if not len(labels):
            return logits.sum()
        truth = F.one_hot(labels, self.classes).to(logits.dtype)
        told = self.choose_anchors(labels)[:, None]
        beliefs = torch.where(told, truth, (logits / self.temperature).softmax(1))
        centred = F.normalize(embeddings - embeddings.mean(1, keepdim=True), dim=1, eps=1e-8)
        beliefs = replicator_dynamics((centred @ centred.T).relu(), beliefs, self.rounds)
        agreed = F.nll_loss((beliefs + 1e-12).log(), labels)
        return agreed + F.cross_entropy(logits, labels)

    def choose_anchors(self, labels: Tensor) -> Tensor:
        """Draw up to `anchors` items of each class; ``[N]`` bool."""
        told = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        for label in torch.unique(labels):
            members = torch.where(labels == label)[0]
            drawn = torch.randperm(len(members))[: self.anchors].to(members.device)
            told[members[drawn]] = True
        return told
