"""ABE: an ensemble of attention masks within one network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.metric_learning.losses._base import at_least
from flowmatch.metric_learning.tuples import check_tensors, same_and_different
from flowmatch.units import unit_vectors


class AttentionEnsemble(nn.Module):
    r"""An ensemble of attention masks on one feature map, with shared layers before and after.

    Learner m: ``f_m = normalise(E(mean over positions of G(x * sigmoid(A_m(B(x))))))``; the branch
    B, the backbone G and the linear layer E are shared, only the 1x1 convolutions A_m are not.

    Args:
        branch: Network B, from ``[N, C, H, W]`` to ``[N, branch_channels, h, w]``, a copy of the
            first layers of the backbone in the paper. Masks of another size are resized.
        branch_channels: Output channels of B.
        channels: Channels of x.
        backbone: Network G, from x to ``[N, backbone_channels, h, w]``.
        backbone_channels: Output channels of G.
        learners: Number of learners.
        dimension: Total dimension; each learner has ``dimension / learners``.

    Raises:
        ValueError: A number is out of range, or `dimension` does not divide.

    Example:
        >>> ensemble = AttentionEnsemble(nn.Identity(), 3, 3, nn.Conv2d(3, 5, 3), 5, 2, 8)
        >>> ensemble(torch.randn(4, 3, 6, 6)).shape
        torch.Size([4, 2, 4])

    Reference:
        Kim, Goyal, Chawla, Lee & Kwon, Attention-based Ensemble for Deep Metric Learning, ECCV
        2018.
    """

    def __init__(
        self,
        branch: nn.Module,
        branch_channels: int,
        channels: int,
        backbone: nn.Module,
        backbone_channels: int,
        learners: int = 8,
        dimension: int = 512,
    ) -> None:
        super().__init__()
        at_least(1, branch_channels=branch_channels, channels=channels)
        at_least(1, backbone_channels=backbone_channels, learners=learners, dimension=dimension)
        if dimension % learners:
            raise ValueError(f"dimension must be a multiple of {learners}, got {dimension}")
        self.branch, self.backbone = branch, backbone
        self.masks = nn.ModuleList(nn.Conv2d(branch_channels, channels, 1) for _ in range(learners))
        self.embed = nn.Linear(backbone_channels, dimension // learners)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the embedding of each learner.

        Args:
            x: ``[N, C, H, W]``.

        Returns:
            ``[N, learners, dimension / learners]``, unit vectors.
        """
        features = self.branch(x)
        parts = [
            self.embed(self.backbone(x * _resized(mask(features), x).sigmoid()).mean((2, 3)))
            for mask in self.masks
        ]
        return unit_vectors(torch.stack(parts, 1), dim=2)

    @staticmethod
    def combine(parts: Tensor) -> Tensor:
        """Concatenate the learners to one embedding, for the test.

        Args:
            parts: ``[N, learners, d]``.

        Returns:
            ``[N, learners * d]``.
        """
        return parts.flatten(1)


def _resized(mask: Tensor, x: Tensor) -> Tensor:
    if mask.shape[2:] == x.shape[2:]:
        return mask
    return F.interpolate(mask, x.shape[2:], mode="bilinear", align_corners=False)


class AttentionEnsembleLoss(nn.Module):
    r"""Sum of a contrastive loss for each learner and a divergence loss between learners.

    With cosines s: ``sum over learners of 1/2 mean_same (1 - s)^2 + 1/2 mean_different (s - m)``
    ``+ w mean (s_kl - m)``, with ``s_kl`` the cosine of one image between learners k and l. The
    last two means are over the cosines above the margin.

    Args:
        margin: Cosine margin ``m``.
        divergence: Weight ``w``; 1 in the paper, 1/2 in the code published with HORDE.

    Raises:
        ValueError: `divergence` is negative, or the margin is not in -1..1.

    Example:
        >>> parts = F.normalize(torch.randn(4, 2, 3), dim=2)
        >>> AttentionEnsembleLoss()(parts, torch.tensor([0, 0, 1, 1])).isfinite().item()
        True

    Reference:
        Kim et al., ECCV 2018, equations 5 to 7; means as in the code of HORDE (Jacob et al., ICCV
        2019).
    """

    def __init__(self, margin: float = 0.5, divergence: float = 1.0) -> None:
        super().__init__()
        at_least(0, divergence=divergence)
        if not -1 <= margin <= 1:
            raise ValueError(f"margin must be in -1..1, got {margin}")
        self.margin, self.divergence = margin, divergence

    def forward(self, parts: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            parts: Unit vectors ``[N, learners, d]``.
            labels: ``[N]``.

        Returns:
            A scalar.

        Raises:
            ValueError: Shapes do not fit.
        """
        check_tensors(parts=parts, labels=labels)
        if parts.dim() != 3 or labels.shape != parts.shape[:1]:
            raise ValueError(
                "parts and labels must be [N, learners, d] and [N], "
                f"got {tuple(parts.shape)} and {tuple(labels.shape)}"
            )
        same, different = same_and_different(labels)
        total = 0 * parts.sum()
        for part in parts.unbind(1):
            cosines = part @ part.T
            if same.any():
                total = total + (1 - cosines[same]).square().mean() / 2
            total = total + self._mean_excess(cosines[different]) / 2
        pairs = parts @ parts.transpose(1, 2)  # learners of one image, [N, learners, learners]
        first, second = torch.triu_indices(parts.shape[1], parts.shape[1], 1, device=parts.device)
        return total + self.divergence * self._mean_excess(pairs[:, first, second])

    def _mean_excess(self, cosines: Tensor) -> Tensor:
        excess = (cosines - self.margin).relu()
        return excess.sum() / (excess > 0).sum().clamp(min=1)
