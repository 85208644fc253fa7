"""Relational knowledge distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.tuples import check_tensors
from flowmatch.ops import pairwise_distance
from flowmatch.ops._types import widened


class RelationalDistillation(nn.Module):
    r"""RKD: a student reproduces the distances and angles of a teacher's embeddings of a batch.

    ``a mean_ij h(d_ij, D_ij) + b mean_ijk h(c_ijk, C_ijk)``, lower case of the student, upper case
    of the teacher: ``d`` distances divided by their mean (of those that are not 0), ``c`` the
    cosine of the angle between j and k at i, ``h`` the Huber loss. The two embeddings may differ in
    scale and dimension. Memory grows with ``N^2 D + N^3``. Half types are computed in float32, also
    under autocast.

    Args:
        distance: Weight ``a`` of distances.
        angle: Weight ``b`` of angles.

    Raises:
        ValueError: A weight is negative.

    Example:
        >>> teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> turned = torch.tensor([[0.0, 0.0], [0.0, 3.0], [-3.0, 0.0]])
        >>> round(RelationalDistillation()(turned, teacher).item(), 4)
        0.0

    Reference:
        Park, Kim, Lu & Cho, Relational Knowledge Distillation, CVPR 2019, equations 6 to 9.
    """

    def __init__(self, distance: float = 1.0, angle: float = 2.0) -> None:
        super().__init__()
        at_least(0, distance=distance, angle=angle)
        self.distance, self.angle = distance, angle

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            student: Embeddings of the student, ``[N, D]``, not normalised in the paper.
            teacher: Embeddings of the teacher, ``[N, E]``, treated as constants.

        Returns:
            A scalar.

        Raises:
            ValueError: Shapes do not fit.
        """
        check_tensors(student=student, teacher=teacher)
        if student.dim() != 2 or teacher.dim() != 2 or len(student) != len(teacher):
            raise ValueError(
                "student and teacher must be [N, D] and [N, E], "
                f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
            )
        if not len(student):
            return student.sum()
        student, teacher = widened(student), widened(teacher.detach())
        with torch.autocast(student.device.type, enabled=False):
            total = self.distance * F.smooth_l1_loss(_distances(student), _distances(teacher))
            return total + self.angle * F.smooth_l1_loss(_cosines(student), _cosines(teacher))


def _distances(embeddings: Tensor) -> Tensor:
    distances = pairwise_distance(embeddings, embeddings)
    count = (distances > 0).sum().clamp(min=1)
    mean = distances.sum() / count
    return distances / torch.where(mean > 0, mean, 1)


def _cosines(embeddings: Tensor) -> Tensor:
    """Return the cosines of all angles, [N, N, N], with the vertex first."""
    differences = embeddings - embeddings[:, None]  # [vertex, other, D]
    square = differences.square().sum(2, keepdim=True)
    # Identical items have no direction: dividing by their distance would give a huge gradient.
    units = torch.where(square > 0, differences / torch.where(square > 0, square, 1).sqrt(), 0)
    return units @ units.transpose(1, 2)
