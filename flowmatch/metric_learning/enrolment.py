"""Recognise who or what has been enrolled, without training anew."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flowmatch.metric_learning.tuples import check_batch
from flowmatch.metric_learning.verification import distances_of_pairs, roc
from flowmatch.ops import nearest


class Answer(NamedTuple):
    """What a query is.

    Attributes:
        name: The closest class that is enrolled, or None where it is too far.
        distance: To its closest example.
    """

    name: str | None
    distance: float


@dataclass(frozen=True)
class Enrolment:
    """Examples of classes, and how close a query must be to one; made by `enrol`.

    Attributes:
        embeddings: ``[N, D]``.
        labels: ``[N]``, into `names`.
        names: Of classes.
        metric: ``"cosine"`` or ``"l2"``.
        threshold: Largest distance at which a query is accepted.
    """

    embeddings: Tensor
    labels: Tensor
    names: tuple[str, ...]
    metric: str
    threshold: float

    def add(self, name: str, embeddings: Tensor) -> "Enrolment":
        """Enrol more examples, of a class that is there or a new one; the threshold stays.

        Args:
            name: Of the class.
            embeddings: ``[M, D]``.

        Raises:
            ValueError: They do not fit.
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

    def query(self, embeddings: Tensor) -> list[Answer]:
        """Say what each of some embeddings is.

        Args:
            embeddings: ``[M, D]``.

        Returns:
            An answer for each.

        Raises:
            ValueError: Nothing is enrolled, or they do not fit.
        """
        if not len(self.embeddings):
            raise ValueError("nothing is enrolled")
        found = nearest(embeddings, self.embeddings, 1, self.metric)
        answers = []
        for index, distance in zip(
            found.index[:, 0].tolist(), found.distance[:, 0].tolist(), strict=True
        ):
            known = index >= 0 and distance <= self.threshold
            name = self.names[int(self.labels[index])] if known else None
            answers.append(Answer(name, distance))
        return answers


def enrol(
    embeddings: Tensor,
    labels: Tensor,
    names: Sequence[str],
    metric: str = "cosine",
    *,
    false_accepts: float = 0.01,
    validation: tuple[Tensor, Tensor] | None = None,
) -> Enrolment:
    """Enrol examples, and choose how close a query must be.

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]``, into `names`.
        names: Of classes.
        metric: What the embeddings are compared by, ``"cosine"`` or ``"l2"``.
        false_accepts: Share of pairs of different classes that may be accepted.
        validation: Embeddings and labels, of any classes, that decide the threshold; None takes
            the examples themselves.

    Returns:
        What can be queried.

    Raises:
        ValueError: Something does not fit, there are not both pairs of one class and of two, or no
            distance would accept few enough pairs of two.

    Example:
        >>> x = torch.eye(3)[[0, 0, 1, 1]]
        >>> known = enrol(x, torch.tensor([0, 0, 1, 1]), ("ann", "ben"), false_accepts=0.0)
        >>> known.query(torch.eye(3)[[1, 2]])[0].name
        'ben'
        >>> print(known.query(torch.eye(3)[[1, 2]])[1].name)
        None
    """
    check_batch(embeddings, labels)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        raise ValueError(f"labels must be into {len(names)} names, got up to {int(labels.max())}")
    judged = validation or (embeddings, labels)
    distances, same = distances_of_pairs(*judged, metric)
    if not same.any() or same.all():
        raise ValueError(
            "a threshold needs two classes and two examples of each: pairs must be of both kinds, "
            f"got {int(same.sum())} of one class among {len(same)}"
        )
    threshold = roc(distances, same).threshold_for(false_accepts)
    if threshold == -math.inf:  # nothing would ever be accepted
        raise ValueError(
            "examples of two classes are nearer than those of one: allow more than "
            f"{false_accepts:g} of false accepts, or give other examples"
        )
    return Enrolment(embeddings, labels, tuple(names), metric, threshold)
