"""Enrolment: recognise classes by a few examples of each, without training again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flowmatch.metric_learning.tuples import check_batch, check_tensors
from flowmatch.metric_learning.verification import pair_distances, roc
from flowmatch.ops import nearest


class Identification(NamedTuple):
    """Result of a query.

    Attributes:
        name: Name of the closest enrolled class; None if it is beyond the threshold.
        distance: Distance to the closest example of that class.
    """

    name: str | None
    distance: float


@dataclass(frozen=True)
class Enrolment:
    """Enrolled examples and the distance at which a query is accepted; `enrol` makes it.

    Attributes:
        embeddings: Embeddings of the examples, ``[N, D]``.
        labels: Index of each example's class in `names`, ``[N]``.
        names: Names of the classes.
        metric: Distance between embeddings, ``"cosine"`` or ``"l2"``.
        threshold: Largest distance at which a query is accepted.
    """

    embeddings: Tensor
    labels: Tensor
    names: tuple[str, ...]
    metric: str
    threshold: float

    def add(self, name: str, embeddings: Tensor) -> "Enrolment":
        """Return an enrolment with more examples of a known or a new class, at the same threshold.

        Args:
            name: Name of the class.
            embeddings: Embeddings of its examples, ``[M, D]``.

        Raises:
            ValueError: The shape does not fit the enrolled embeddings.
        """
        names = self.names if name in self.names else (*self.names, name)
        labels = self.labels.new_full((len(embeddings),), names.index(name))
        check_batch(embeddings, labels)
        if embeddings.shape[1] != self.embeddings.shape[1]:
            raise ValueError(
                f"embeddings must be [M, {self.embeddings.shape[1]}], got {list(embeddings.shape)}"
            )
        return Enrolment(
            torch.cat([self.embeddings, embeddings]),
            torch.cat([self.labels, labels]),
            names,
            self.metric,
            self.threshold,
        )

    def query(self, embeddings: Tensor) -> list[Identification]:
        """Identify embeddings by their nearest example.

        Args:
            embeddings: Embeddings of the queries, ``[M, D]``.

        Returns:
            One result for each query.

        Raises:
            ValueError: Nothing is enrolled, or the shape does not fit.
        """
        check_tensors(embeddings=embeddings)
        if not len(self.embeddings):
            raise ValueError("nothing is enrolled")
        neighbours = nearest(embeddings, self.embeddings, 1, self.metric)
        results = []
        for index, distance in zip(
            neighbours.index[:, 0].tolist(), neighbours.distance[:, 0].tolist(), strict=True
        ):
            known = index >= 0 and distance <= self.threshold
            name = self.names[int(self.labels[index])] if known else None
            results.append(Identification(name, distance))
        return results


def enrol(
    embeddings: Tensor,
    labels: Tensor,
    names: Sequence[str],
    metric: str = "cosine",
    *,
    false_accept_rate: float = 0.01,
    validation: tuple[Tensor, Tensor] | None = None,
) -> Enrolment:
    """Enrol examples of classes and choose the distance threshold for queries.

    Args:
        embeddings: Embeddings of the examples, ``[N, D]``.
        labels: Index of each example's class in `names`, ``[N]``.
        names: Names of the classes.
        metric: Distance between embeddings, ``"cosine"`` or ``"l2"``.
        false_accept_rate: Largest share of pairs of different classes that the threshold accepts.
        validation: Embeddings and labels of any classes, on which the threshold is chosen; None
            takes the examples themselves.

    Returns:
        The enrolment, ready for queries.

    Raises:
        ValueError: Shapes or labels do not fit, positive or negative pairs are missing, or every
            threshold accepts too many negative pairs.

    Example:
        >>> x = torch.eye(3)[[0, 0, 1, 1]]
        >>> known = enrol(x, torch.tensor([0, 0, 1, 1]), ("ann", "ben"), false_accept_rate=0.0)
        >>> known.query(torch.eye(3)[[1, 2]])[0].name
        'ben'
        >>> print(known.query(torch.eye(3)[[1, 2]])[1].name)
        None
    """
    check_batch(embeddings, labels)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        raise ValueError(
            f"labels must be in 0..{len(names) - 1}, one for each name, got {int(labels.min())}"
            f"..{int(labels.max())}"
        )
    distances, same = pair_distances(*(validation or (embeddings, labels)), metric)
    if not same.any() or same.all():
        raise ValueError(
            "a threshold needs two classes and two examples of each: pairs must be of both kinds, "
            f"got {int(same.sum())} of one class among {len(same)}"
        )
    threshold = roc(distances, same).threshold_for(false_accept_rate)
    if threshold == -math.inf:  # it would accept nothing
        raise ValueError(
            "examples of two classes are nearer than those of one: allow more than "
            f"{false_accept_rate:g} of false accepts, or give other examples"
        )
    return Enrolment(embeddings, labels, tuple(names), metric, threshold)
