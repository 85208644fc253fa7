"""Several flows for one level of a network, and the learnt choice among them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCORING = 32
"""Channels of the network that scores a hypothesis."""
LEAD = 4.0
"""Initial lead of the first hypothesis, as a logit: training begins close to its flow alone."""


class Hypothesis(NamedTuple):
    """A flow that may be right, and what is known about it.

    Attributes:
        flow: Flow ``[B, 2, h, w]``, in pixels of the level.
        spread: Uncertainty of the flow in eighths of a pixel, ``[B, 1, h, w]``; 0 where unknown.
        known: Pixels where there is a flow, bool ``[B, 1, h, w]``; None is everywhere.
    """

    flow: Tensor
    spread: Tensor
    known: Tensor | None = None


class FlowChoice(nn.Module):
    """Blend of several flows of one level, weighted by a learnt score of each.

    The score of a hypothesis depends on the similarities that its flow leads to, on the features of
    the first image, on its difference from the first hypothesis, and on its spread. The same layers
    score all hypotheses; only a constant tells their kinds apart.

    Args:
        compared: Number of similarities of a pixel.
        context: Channels of the features of the first image.
        kinds: Number of hypotheses.

    Reference:
        Lempitsky et al., FusionFlow, CVPR 2008, for the fusion of proposals; here the choice is
        learnt, with the flow.
    """

    def __init__(self, compared: int, context: int, kinds: int) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Conv2d(compared + context + 5, SCORING, 3, 1, 1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(SCORING, SCORING, 3, 1, 2, dilation=2),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(SCORING, 1, 3, 1, 1),
        )
        self.preference = nn.Parameter(torch.tensor([LEAD, *[0.0] * (kinds - 1)]))

    def begin(self) -> None:
        """Set the initial weights: every hypothesis has the same score."""
        last = self.get_submodule("score.4")
        assert isinstance(last, nn.Conv2d)
        nn.init.zeros_(last.weight)

    def forward(
        self,
        hypotheses: Sequence[Hypothesis],
        matching: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
        context: Tensor,
    ) -> Tensor:
        """Return the blended flow, ``[B, 2, h, w]``.

        Args:
            hypotheses: The flows; the first is known everywhere.
            matching: Function from a flow to the initial flow around it, the similarities there and
                the displacements, as in `LevelMatching`.
            context: Features of the first image, ``[B, c, h, w]``.
        """
        reference = hypotheses[0].flow
        scores = []
        for hypothesis, preference in zip(hypotheses, self.preference, strict=False):
            _, similarity, displacements = matching(hypothesis.flow)
            difference = (hypothesis.flow - reference) / 8
            inputs = [similarity, context, displacements[:, 2:], difference, hypothesis.spread]
            x = torch.cat([part.to(similarity) for part in inputs], dim=1)
            score = self.score(x.to(context.dtype)).to(similarity) + preference
            if hypothesis.known is not None:
                score = score.masked_fill(~hypothesis.known, -torch.inf)
            scores.append(score)
        weights = torch.stack(scores).softmax(dim=0)
        flows = torch.stack([hypothesis.flow for hypothesis in hypotheses])
        return (weights * flows).sum(dim=0)


def match_globally(unit1: Tensor, unit2: Tensor, sharpness: Tensor) -> Hypothesis:
    """Return the expected flow under a softmax over all pixels of the other image.

    It is computed as attention, whose memory grows with the number of pixels, not with its square.

    Args:
        unit1: Features of the first image, ``[B, C, h, w]``, of length sqrt(C), float32 or wider.
        unit2: Features of the second image, alike.
        sharpness: Logarithm of the softmax's inverse temperature.

    Reference:
        Xu et al., GMFlow, CVPR 2022, section 3.2.
    """
    B, C, h, w = unit1.shape
    steps = [torch.arange(side, device=unit1.device).to(unit1) for side in (h, w)]
    # Half of the last index, not of the size: a free size has no fractions in an export to ONNX.
    y, x = torch.meshgrid(*(step - step[-1:] / 2 for step in steps), indexing="ij")
    grid = torch.stack([x, y])
    # The square of the distance gives the spread; attention wants values as wide as its keys.
    values = torch.cat([grid, (grid**2).sum(dim=0, keepdim=True)]).flatten(1).T
    values = F.pad(values, (0, max(C - 3, 0))).expand(B, 1, -1, -1)
    queries, keys = (
        unit.flatten(2).transpose(1, 2)[:, None].contiguous() for unit in (unit1, unit2)
    )
    # A half type would lose a quarter of a pixel of the coordinates.
    with torch.autocast(unit1.device.type, enabled=False):
        expected = F.scaled_dot_product_attention(queries * (sharpness.exp() / C), keys, values,
                                                  scale=1.0)  # fmt: skip
    moments = expected[:, 0, :, :3].transpose(1, 2).reshape(B, 3, h, w)
    place = moments[:, :2]
    variance = moments[:, 2:] - (place**2).sum(dim=1, keepdim=True)
    return Hypothesis(place - grid, variance.clamp(min=1e-4).sqrt() / 8)
