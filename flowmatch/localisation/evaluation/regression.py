"""Regression of poses from global descriptors, as PoseNet does it: a peer of localisation."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]
from torch import Tensor, nn

BETA = 250.0
"""Weight of a quaternion's error beside one of metres; PoseNet's are 120 to 750 indoors."""
_HIDDEN, _STEPS, _RATE = 256, 2000, 3e-3


class PoseRegression(nn.Module):
    """Network with one hidden layer: pose of a picture from its global descriptor.

    It sees the principal components of the descriptors that it is trained on.

    Args:
        descriptors: Global descriptors ``[N, D]`` of the pictures that it is trained on.

    Shape:
        - Input: descriptors ``[N, D]``.
        - Output: ``[N, 7]``: position, metres, and quaternion (x, y, z, w) of any length.

    Reference:
        Kendall et al., PoseNet, ICCV 2015. There the whole network is trained, on crops of the
        pictures; here its trunk is fixed: the describer of the index.
    """

    def __init__(self, descriptors: Tensor) -> None:
        super().__init__()
        self.mean = descriptors.mean(0)
        axes = torch.linalg.svd(descriptors - self.mean, full_matrices=False)[2]
        self.axes = axes[: max(1, len(descriptors) - 1)].T
        length = float(((descriptors - self.mean) @ self.axes).norm(dim=1).square().mean().sqrt())
        self.length = length or 1.0
        self.layers = nn.Sequential(
            nn.Linear(self.axes.shape[1], _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 7)
        )

    def forward(self, descriptors: Tensor) -> Tensor:
        """Return positions and quaternions."""
        result: Tensor = self.layers((descriptors - self.mean) @ self.axes / self.length)
        return result

    @torch.no_grad()
    def poses(self, descriptors: Tensor) -> NDArray[np.float64]:
        """Return camera-to-world motions ``[N, 4, 4]``, metres."""
        numbers = self(descriptors).double().cpu().numpy()
        result = np.tile(np.eye(4), (len(numbers), 1, 1))
        result[:, :3, :3] = Rotation.from_quat(numbers[:, 3:]).as_matrix()
        result[:, :3, 3] = numbers[:, :3]
        return result


def posenet_loss(output: Tensor, truth: Tensor, beta: float = BETA) -> Tensor:
    """Return PoseNet's loss, the mean of ``|t - t'| + beta |q - q'|``.

    Args:
        output: ``[N, 7]``: positions and quaternions, of any length.
        truth: ``[N, 7]``: the same, with quaternions of unit length.
        beta: Weight of the quaternions.

    Example:
        >>> truth = torch.tensor([[0.0, 0, 0, 0, 0, 0, 1]])
        >>> posenet_loss(torch.tensor([[3.0, 4, 0, 0, 0, 0.1, 1]]), truth, beta=10)
        tensor(6.)

    Reference:
        Kendall et al., PoseNet, ICCV 2015, equation 2.
    """
    difference = output - truth
    result: Tensor = (difference[:, :3].norm(dim=1) + beta * difference[:, 3:].norm(dim=1)).mean()
    return result


def train_regression(
    descriptors: Tensor, poses: Sequence[NDArray[np.float64]], seed: int = 0
) -> PoseRegression:
    """Train a regression on pictures with known poses.

    Args:
        descriptors: Global descriptors ``[N, D]`` of unit length.
        poses: N camera-to-world motions ``[4, 4]``, metres.
        seed: Seed of the first weights.
    """
    matrices = np.stack(poses)
    quaternions = Rotation.from_matrix(matrices[:, :3, :3]).as_quat()
    quaternions[quaternions @ quaternions[0] < 0] *= -1  # q and -q are the same rotation
    truth = torch.from_numpy(np.hstack([matrices[:, :3, 3], quaternions])).to(descriptors)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PoseRegression(descriptors).to(descriptors.device)
        mean = truth.mean(0)
        last = network.layers[-1]
        assert isinstance(last, nn.Linear)
        last.bias.data = torch.cat([mean[:3], F.normalize(mean[3:], dim=0)])
        optimizer = torch.optim.Adam(network.parameters(), _RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            loss = posenet_loss(network(descriptors), truth)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network
