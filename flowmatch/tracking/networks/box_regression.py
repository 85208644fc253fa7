"""Siamese regression of a box from two crops."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CELLS = 5  # cells to a side into which the object in the first crop is divided
_SLOPE = 0.1  # of LeakyReLU


class BoxRegression(nn.Module):
    """Two crops through shared convolutions; fully connected layers regress the box.

    Both crops are twice as wide and high as the box of the object in the earlier frame. The first
    shows the object in its middle; the second is of the later frame. As in GOTURN, fully connected
    layers compare the features and regress the box, here also from correlations: the object's
    features in 5 x 5 cells, each with the features at every place of the second crop. That is
    learned from far fewer clips than a comparison by fully connected layers alone.

    Args:
        size: Side of the crops in pixels, a multiple of 40.
        width: Channels of the first layer.
        hidden: Units of the first fully connected layer.

    Raises:
        ValueError: `size` is no multiple of 40.

    Example:
        >>> crops = torch.zeros(2, 3, 80, 80)
        >>> code, presence = BoxRegression()(crops, crops)
        >>> code.shape, presence.shape
        (torch.Size([2, 4]), torch.Size([2]))

    Reference:
        Held, Thrun, Savarese, Learning to Track at 100 FPS with Deep Regression Networks (GOTURN),
        ECCV 2016; correlation with an exemplar: Bertinetto et al., SiamFC, ECCV Workshops 2016.
    """

    def __init__(self, size: int = 80, width: int = 24, hidden: int = 128) -> None:
        super().__init__()
        if size < 40 or size % 40:
            raise ValueError(f"size must be a multiple of 40, got {size}")
        self.size = size
        self.shared = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
        )
        self.summary = nn.Conv2d(2 * width, 16, 1)
        self.log_sharpness = nn.Parameter(torch.tensor(1.5))
        self.comparison = nn.Sequential(
            nn.Conv2d(_CELLS**2 + 2 * 16, 32, 3, stride=2, padding=1), nn.LeakyReLU(_SLOPE)
        )
        self.regression = nn.Sequential(
            nn.Linear(32 * (size // 8) ** 2, hidden),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(hidden, 5),
        )

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the object of the first crops is in the second.

        Args:
            first: Crops around the object, RGB in [0, 1], ``[B, 3, size, size]``.
            second: Crops of the later frame.

        Returns:
            The boxes as `encode_box` gives them, ``[B, 4]``, and the logits of the probability that
            the object is visible in the second crop, ``[B]``.

        Raises:
            ValueError: The crops have another shape.
        """
        expected = (first.shape[0], 3, self.size, self.size)
        if tuple(first.shape) != expected or first.shape != second.shape:
            raise ValueError(
                f"crops must be [B, 3, {self.size}, {self.size}], "
                f"got {tuple(first.shape)} and {tuple(second.shape)}"
            )
        B = len(first)
        # Each crop loses its mean colour: the light may change between the frames.
        crops = torch.cat([first, second])
        features = self.shared(crops - crops.mean((2, 3), keepdim=True))
        summaries = F.leaky_relu(self.summary(features), _SLOPE)
        volume = self._correlate(features[:B], features[B:])
        compared = self.comparison(torch.cat([volume, summaries[:B], summaries[B:]], 1))
        result = self.regression(compared.flatten(1))
        return result[:, :4], result[:, 4]

    def _correlate(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the similarity of each cell of the object with each place, ``[B, 25, h, h]``."""
        side = first.shape[-1]
        quarter = side // 4
        middle = first[..., quarter : side - quarter, quarter : side - quarter]
        cells = F.normalize(F.adaptive_avg_pool2d(middle, _CELLS).flatten(2), dim=1)
        places = F.normalize(second.flatten(2), dim=1)
        scores: Tensor = (cells.mT @ places) * self.log_sharpness.exp()
        return scores.view(*scores.shape[:2], side, side)
