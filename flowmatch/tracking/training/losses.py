"""Loss of box regression."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

_BOX, _PRESENCE = 1.0, 0.2


class BoxLoss(NamedTuple):
    """Parts of the loss of a batch.

    Attributes:
        total: What is minimised.
        box: Mean L1 distance of the visible objects' boxes, in sides of the box.
        presence: Binary cross-entropy of the visibility.
    """

    total: Tensor
    box: Tensor
    presence: Tensor


def box_loss(code: Tensor, logits: Tensor, true_code: Tensor, present: Tensor) -> BoxLoss:
    """Return the loss of regressed boxes: L1 where the object is visible, and of the visibility.

    Args:
        code: Regressed boxes, as `encode_box` gives them, ``[B, 4]``.
        logits: Logits of the visibility, ``[B]``.
        true_code: True boxes, ``[B, 4]``.
        present: 1 where the object is visible, else 0, ``[B]``.

    Example:
        >>> import torch
        >>> zeros = torch.zeros(2, 4)
        >>> box_loss(zeros, torch.zeros(2), zeros + 1, torch.tensor([1.0, 0.0])).box.item()
        1.0

    Reference:
        The L1 distance is that of Held et al., section 3.3.
    """
    distance = (code - true_code).abs().mean(1)
    box = (distance * present).sum() / present.sum().clamp_min(1)
    presence = F.binary_cross_entropy_with_logits(logits, present)
    return BoxLoss(_BOX * box + _PRESENCE * presence, box, presence)
