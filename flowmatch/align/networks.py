"""Networks that estimate the transform between two images."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.align.backbones import SmallBackbone
from flowmatch.align.fit import best_matches, fit_transform, match_scores
from flowmatch.align.transforms import AFFINE, THIN_PLATE, identity, pixel_grid, warp_image
from flowmatch.units import unit_vectors

_KERNELS = (7, 5)  # of the regression, both without padding: a map must be 11 wide
_MIN_SIDE = sum(_KERNELS) - len(_KERNELS) + 1

HEADS = ("regression", "fit")
KINDS = {"affine": AFFINE, "thin-plate": THIN_PLATE}


def global_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return the dot products of the features at all pairs of positions.

    This is one matrix product for each pair of maps. `flowmatch.ops.correlation` with a radius that
    covers the map computes the same numbers, but orders them by displacement, and most
    displacements leave the map: of 29 x 29 for a map of 15 x 15, a quarter is valid at any
    position. The regression needs them by absolute position.

    Args:
        first: ``[B, C, h, w]``.
        second: ``[B, C, h2, w2]``.

    Returns:
        ``[B, h2 * w2, h, w]``: channel ``y2 * w2 + x2`` at (y, x) compares (x2, y2) of the second
        map with (x, y) of the first.

    Example:
        >>> first = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)
        >>> global_correlation(first, first).flatten(2)
        tensor([[[1., 2.],
                 [2., 4.]]])
    """
    if first.dim() != 4 or second.dim() != 4 or first.shape[:2] != second.shape[:2]:
        raise ValueError(
            "features must be [B, C, h, w] with the same B and C, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    volume: Tensor = second.flatten(2).mT @ first.flatten(2)
    return volume.reshape(*volume.shape[:2], *first.shape[-2:])


def match_volume(first: Tensor, second: Tensor) -> Tensor:
    """Return the rectified global correlation, normalised to unit length at each position.

    A position with many similar matches gets many small values, a position with a single good match
    one large value: the normalisation acts as the ratio test does for descriptors.

    Args:
        first: ``[B, C, h, w]``.
        second: ``[B, C, h2, w2]``.

    Returns:
        ``[B, h2 * w2, h, w]``, not negative.

    Reference:
        Rocco et al., CVPR 2017, section 3.2.
    """
    # In float32: under autocast the square of a small feature underflows.
    unit = [unit_vectors(features.float(), dim=1, least=1e-6) for features in (first, second)]
    volume: Tensor = unit_vectors(F.relu(global_correlation(*unit)), dim=1, least=1e-6)
    return volume


class Regression(nn.Module):
    """Regression of transform parameters from a correlation volume, initialised to the identity.

    Args:
        positions: Channels of the volume, h * w.
        side: Height and width of the volume, at least 11.
        kind: `AFFINE` or `THIN_PLATE`.
        channels: Channels of the two convolutions.
    """

    def __init__(
        self, positions: int, side: int, kind: int, channels: tuple[int, int] = (128, 64)
    ) -> None:
        super().__init__()
        if side < _MIN_SIDE:
            raise ValueError(
                f"maps must be {_MIN_SIDE} x {_MIN_SIDE} at least, got {side} x {side}"
            )
        layers: list[nn.Module] = []
        inputs = positions
        for kernel, outputs in zip(_KERNELS, channels, strict=True):
            layers += [
                nn.Conv2d(inputs, outputs, kernel),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(inputs * (side - _MIN_SIDE + 1) ** 2, kind)
        nn.init.zeros_(self.out.bias)
        nn.init.normal_(self.out.weight, std=1e-3)
        self.register_buffer("identity", identity(kind)[0], persistent=False)

    def forward(self, volume: Tensor) -> Tensor:
        """``[B, positions, side, side]`` to ``[B, kind]``."""
        theta: Tensor = self.out(self.layers(volume).flatten(1))
        return self.get_buffer("identity") + theta.float()


class AlignNet(nn.Module):
    """Features, global correlation and a transform, in stages: each refines the one before.

    The head ``"regression"`` is Rocco's: convolutions over the correlation volume. The head
    ``"fit"`` has no parameters but a temperature: it takes the best match of each position and fits
    the transform robustly, so that only the backbone is trained, on correspondences, which takes a
    small part of the time.

    Images of any size are resized to `size` x `size` and their colours normalised inside.

    Args:
        stages: Kinds of transforms, such as ``("affine", "thin-plate")``.
        size: Side of the images that the backbone gets.
        width: Width of `SmallBackbone`.
        channels: Channels of the regression's convolutions.
        front: Front of `SmallBackbone`.
        head: One of `HEADS`.
        backbone: Any module from ``[B, 3, size, size]`` to square maps ``[B, C, h, h]``; None
            builds a `SmallBackbone`. Files of weights support `SmallBackbone` only.

    Raises:
        ValueError: A stage, the head or the front is unknown, or the backbone's maps are not square
            or, for the regression, smaller than 11 x 11.

    Example:
        >>> network = AlignNet(stages=("affine",), size=96, width=4).eval()
        >>> [theta.shape for theta in network(*torch.rand(2, 1, 3, 50, 70))]
        [torch.Size([1, 6])]

    Reference:
        Rocco et al., Convolutional neural network architecture for geometric matching, CVPR 2017.
    """

    def __init__(
        self,
        stages: tuple[str, ...] = ("affine", "thin-plate"),
        size: int = 120,
        width: int = 24,
        channels: tuple[int, int] = (128, 64),
        front: str = "colour",
        head: str = "regression",
        backbone: nn.Module | None = None,
    ) -> None:
        super().__init__()
        unknown = [stage for stage in stages if stage not in KINDS]
        if unknown or not stages:
            raise ValueError(f"stages must be among {', '.join(KINDS)}, got {list(stages)}")
        if head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {head!r}")
        self.size = size
        self.head = head
        self.kinds = [KINDS[stage] for stage in stages]
        self.backbone = SmallBackbone(width, front) if backbone is None else backbone
        with torch.no_grad():
            # In training mode this pass would change the statistics of a trained backbone.
            training = self.backbone.training
            shape = self.backbone.eval()(torch.zeros(1, 3, size, size)).shape
            self.backbone.train(training)
        if len(shape) != 4 or shape[2] != shape[3]:
            raise ValueError(f"the backbone must give maps [B, C, h, h], got {list(shape)}")
        side = shape[2]
        if head == "regression":
            self.regressions = nn.ModuleList(
                Regression(side * side, side, kind, (channels[0], channels[1]))
                for kind in self.kinds
            )
        else:
            self.log_sharpness = nn.Parameter(torch.tensor(2.5))
        # Statistics of ImageNet, which pretrained backbones expect.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]), persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        """Return the transforms from points of the first image to points of the second.

        Args:
            first: RGB in [0, 1], ``[B, 3, H, W]``.
            second: ``[B, 3, H2, W2]``.

        Returns:
            ``[B, 6]`` or ``[B, 18]`` for each stage, for `transforms.transform_points`.
        """
        a, b = self._preprocess(first), self._preprocess(second)
        target = self.backbone(a)
        stages: list[Tensor] = []
        for stage, kind in enumerate(self.kinds):
            # Each stage resamples the original image: repeated resampling would blur it.
            warped = warp_image([theta.detach() for theta in stages], b) if stages else b
            features = self.backbone(warped)
            if self.head == "regression":
                theta = self.regressions[stage](match_volume(target, features))
            else:
                theta = self._fit(kind, target, features)
            stages.append(theta)
        return tuple(stages)

    def scores(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the correlation scores of all pairs of positions; for the head ``"fit"``.

        Args:
            first: RGB in [0, 1], ``[B, 3, H, W]``.
            second: ``[B, 3, H2, W2]``.

        Returns:
            ``[B, h * h, h * h]``: positions of the second image, then of the first.
        """
        a, b = (self.backbone(self._preprocess(image)) for image in (first, second))
        return match_scores(a, b, self.log_sharpness.exp())

    def _fit(self, kind: int, target: Tensor, features: Tensor) -> Tensor:
        h, w = features.shape[-2:]
        scores = match_scores(target, features, self.log_sharpness.exp())
        points, weight = best_matches(scores, (h, w))
        return fit_transform(kind, pixel_grid(*target.shape[-2:]).to(points), points, weight)

    def _preprocess(self, image: Tensor) -> Tensor:
        if image.dim() != 4 or image.shape[1] != 3:
            raise ValueError(f"images must be [B, 3, H, W], got {tuple(image.shape)}")
        if image.shape[-2:] != (self.size, self.size):
            size = (self.size, self.size)
            image = F.interpolate(image, size, mode="bilinear", antialias=True)
        mean, deviation = (self.get_buffer(k)[:, None, None] for k in ("mean", "deviation"))
        return (image - mean) / deviation


class CorrelationHead(nn.Module):
    """The trained part of a network with the head ``"fit"``: two images to correlation scores.

    Args:
        network: Network whose backbone is trained.
    """

    def __init__(self, network: AlignNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """See `AlignNet.scores`."""
        return self.network.scores(first, second)


MODELS: Mapping[str, Callable[..., AlignNet]] = {"align": AlignNet}
"""Constructors of alignment networks by name."""
