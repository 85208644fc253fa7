"""Several flows for one level of a network, and the learnt choice among them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCORING = 32
"""Channels of the network that scores a hypothesis."""
ALIKE = 1.0
"""Distance in pixels of the level up to which flows are blended; between others lies no flow."""


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
    """Learnt scores of several flows of one level.

    The score of a hypothesis depends on the similarities that its flow leads to, on the features of
    the first image, on its difference from the first hypothesis, and on its spread. The same layers
    score all hypotheses.

    Args:
        compared: Number of similarities of a pixel.
        context: Channels of the features of the first image.

    Reference:
        Lempitsky et al., FusionFlow, CVPR 2008, for the fusion of proposals; here the choice is
        learnt, with the flow.
    """

    def __init__(self, compared: int, context: int) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Conv2d(compared + context + 5, SCORING, 3, 1, 1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(SCORING, SCORING, 3, 1, 2, dilation=2),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(SCORING, 1, 3, 1, 1),
        )

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
        """Return the scores, ``[n, B, 1, h, w]``, -inf where a flow is unknown.

        Args:
            hypotheses: The flows; the first is known everywhere.
            matching: Function from a flow to the initial flow around it, the similarities there and
                the displacements, as in `LevelMatching`.
            context: Features of the first image, ``[B, c, h, w]``.
        """
        reference = hypotheses[0].flow.detach()
        scores = []
        for hypothesis in hypotheses:
            flow = hypothesis.flow.detach()  # the choice judges flows and does not form them
            _, similarity, displacements = matching(flow)
            difference = (flow - reference) / 8
            inputs = [similarity, context, displacements[:, 2:], difference, hypothesis.spread]
            x = torch.cat([part.to(similarity) for part in inputs], dim=1)
            score = self.score(x.to(context.dtype)).to(similarity)
            if hypothesis.known is not None:
                score = score.masked_fill(~hypothesis.known, -torch.inf)
            scores.append(score)
        return torch.stack(scores)


def choose_flow(hypotheses: Sequence[Hypothesis], scores: Tensor) -> Tensor:
    """Return the flow of the best score at each pixel, blended with the flows that are like it.

    A mean of distant flows would be a third flow, for which nothing speaks.

    Args:
        hypotheses: The flows, ``[B, 2, h, w]``; of two with the same score, the earlier is taken.
        scores: Their scores, ``[n, B, 1, h, w]``, of which the softmax gives the weights.

    Example:
        >>> still = Hypothesis(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))
        >>> far = Hypothesis(still.flow + 9, still.spread)
        >>> choose_flow([still, far], torch.zeros(2, 1, 1, 4, 4)).max()
        tensor(0.)
    """
    flows = torch.stack([hypothesis.flow for hypothesis in hypotheses])
    chosen = scores.argmax(dim=0, keepdim=True).expand(-1, -1, 2, -1, -1)
    distance = (flows - flows.gather(0, chosen)).detach().square().sum(dim=2, keepdim=True)
    weights = scores.masked_fill(distance > ALIKE**2, -torch.inf).softmax(dim=0)
    return (weights * flows).sum(dim=0)


class GlobalMatch(nn.Module):
    """Expected flow under a softmax over all pixels of the other image.

    It is computed as attention, whose memory grows with the number of pixels, not with its square.
    `forward` takes:

    Args:
        unit1: Features of the first image, ``[B, C, h, w]``, of length sqrt(C), float32 or wider.
        unit2: Features of the second image, alike.
        sharpness: Logarithm of the softmax's inverse temperature.

    Reference:
        Xu et al., GMFlow, CVPR 2022, section 3.2.
    """

    def forward(self, unit1: Tensor, unit2: Tensor, sharpness: Tensor) -> Hypothesis:
        """Return the hypothesis."""
        B, C, h, w = unit1.shape
        steps = [torch.arange(side, device=unit1.device).to(unit1) for side in (h, w)]
        # Half of the last index, not of the size: a free size has no fractions in ONNX.
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
