"""Training of the confidence network, and its calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch import training
from flowmatch.flow.networks.confidence import THRESHOLDS, FlowConfidence, expected_error
from flowmatch.flow.synthetic.pairs import SyntheticFlow
from flowmatch.flow.synthetic.sources import Sources
from flowmatch.flow.training.judged_flows import ESTIMATED, JudgedFlow, JudgedFlows
from flowmatch.training import Run, RunOptions, Samples, Schedule, data_digest
from flowmatch.zoo import load_initial_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

CALIBRATION_TEXTURES = range(2_000_000, 2_000_040)
"""Seeds of the procedural textures of calibration; training takes the seeds from 0."""
PIXELS_PER_FLOW = 2000
"""Number of pixels of each flow that calibration looks at."""


@dataclass(frozen=True)
class ConfidenceRecipe:
    """Schedule and data of a training run.

    Attributes:
        schedule: Steps, batch size, learning rate.
        size: Height and width of the frames.
        motion: Factors on synthetic motions and their weights (`SyntheticFlow`).
        pairs: Number of rendered pairs; the run begins again with the first after the last.
        calibration: Number of flows that the result is calibrated on.
        seed: Random seed of the samples and of the initial weights; the next one is that of the
            calibration.
    """

    schedule: Schedule
    size: tuple[int, int] = (256, 384)
    motion: tuple[tuple[float, float], ...] = (
        (0.1, 0.12), (0.4, 0.2), (1.0, 0.28), (2.5, 0.25), (5.0, 0.15),
    )  # fmt: skip
    pairs: int = 416
    calibration: int = 192
    seed: int = 71

    def samples(self, sources: Sources) -> JudgedFlows:
        """Return the training samples."""
        return JudgedFlows(
            SyntheticFlow(sources, self.size, self.motion, backward=True, seed=self.seed),
            self.pairs,
        )

    def calibration_samples(self, sources: Sources) -> JudgedFlows:
        """Return estimated flows for other scenes and procedural textures."""
        held_out = replace(sources, textures=CALIBRATION_TEXTURES)
        samples = replace(self, seed=self.seed + 1).samples(held_out)
        samples.kinds = ESTIMATED
        return samples


RECIPES: Mapping[str, ConfidenceRecipe] = {
    "confidence": ConfidenceRecipe(Schedule(steps=1200, batch=4, average=0.99)),
    # From the weights of the first (--start): flows of a newer network.
    "confidence-again": ConfidenceRecipe(
        Schedule(steps=800, batch=4, learning_rate=5e-4, average=0.99), pairs=256, seed=73
    ),
}


def train_confidence(
    recipe: ConfidenceRecipe,
    sources: Sources,
    checkpoint: Path,
    *,
    start: dict[str, Tensor] | None = None,
    **options: "Unpack[RunOptions]",
) -> nn.Module:
    """Train a confidence network on flows of several methods for rendered pairs; calibrate it.

    Args:
        recipe: Schedule and data.
        sources: Sources of the textures.
        checkpoint: File of the training state.
        start: Initial weights.
        **options: Options of the run, of `flowmatch.training.train`.

    Returns:
        The trained network, in eval mode.

    Raises:
        TrainingDiverged: The loss is NaN or infinite.
        ValueError: `checkpoint` belongs to another run, or `start` to another network.
    """
    torch.manual_seed(recipe.seed)
    model = FlowConfidence()
    load_initial_weights(model, start, "confidence")
    facts = {"photos": data_digest(sources.photos), "cutouts": data_digest(sources.cutouts)}
    training.train(
        model,
        recipe.samples(sources),
        collate,
        confidence_loss,
        recipe.schedule,
        checkpoint=checkpoint,
        run=Run(recipe, {"data_digest": facts}),
        **options,
    )
    calibrate(model, recipe.calibration_samples(sources), recipe.calibration)
    return model


def collate(samples: Sequence[JudgedFlow]) -> list[Tensor]:
    """Return a batch: frames ``[B, 3, H, W]`` uint8, flows ``[B, 2, H, W]``, errors."""
    *images, errors = (np.stack(part) for part in zip(*samples, strict=True))
    return [*(torch.from_numpy(part).movedim(-1, 1) for part in images), torch.from_numpy(errors)]


def confidence_loss(model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Return the binary cross-entropy over all thresholds, and two measures of the judgement.

    Args:
        model: A `FlowConfidence`.
        batch: Batch from `collate`.

    Returns:
        The loss; the error of the logarithm of the expected error, and the share of pixels that
        are on the predicted side of 1 px.
    """
    first, second, forward, backward, error = batch
    logits = model(first.float() / 255, second.float() / 255, forward, backward)
    below = _below(error)
    loss = F.binary_cross_entropy_with_logits(logits, below)
    with torch.no_grad():
        k = THRESHOLDS.index(1.0)
        right = ((logits[:, k] > 0) == below[:, k].bool()).float().mean().item()
        ratio = ((expected_error(logits) + 0.1) / (error.clamp(max=64) + 0.1)).log()
    return loss, {"log_error": ratio.abs().mean().item(), "right": right}


def _below(error: Tensor) -> Tensor:
    """Return for each of `THRESHOLDS` whether the error is smaller, 0 or 1, ``[B, 8, ...]``."""
    return torch.stack([error < threshold for threshold in THRESHOLDS], dim=1).float()


@torch.no_grad()
def calibrate(model: FlowConfidence, samples: Samples, count: int) -> None:
    """Fit the factor and the shift of each threshold's logit, in place.

    Args:
        model: The trained network.
        samples: Flows that it was not trained on.
        count: Number of flows.

    Reference:
        Platt, Probabilistic Outputs for Support Vector Machines, 1999.
    """
    device = model.calibration.device
    model.calibration.copy_(torch.tensor([1.0, 0.0]).expand(len(THRESHOLDS), 2))
    logits, below = [], []
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        first, second, forward, backward, error = (
            part.to(device) for part in collate([samples[i]])
        )
        judged = model(first.float() / 255, second.float() / 255, forward, backward)
        chosen = torch.randperm(error.numel(), generator=generator)[:PIXELS_PER_FLOW].to(device)
        logits.append(judged[0].flatten(1)[:, chosen])
        below.append(_below(error)[0].flatten(1)[:, chosen])
    fitted = [
        _fit_logistic(*pair)
        for pair in zip(torch.cat(logits, dim=1).double(), torch.cat(below, dim=1), strict=True)
    ]
    model.calibration.copy_(torch.stack(fitted))


def _fit_logistic(x: Tensor, y: Tensor) -> Tensor:
    """Return factor and shift of the logistic regression of 0 or 1 on logits, by Newton's steps."""
    inputs = torch.stack([x, torch.ones_like(x)])
    unchanged = torch.tensor([1.0, 0.0], dtype=x.dtype, device=x.device)
    fit = torch.zeros_like(unchanged)  # from sure and wrong probabilities, a step would be too long
    for _ in range(20):
        p = (fit @ inputs).sigmoid()
        gradient = inputs @ (p - y) + 1e-3 * (fit - unchanged)
        hessian = (inputs * (p * (1 - p))) @ inputs.T + 1e-3 * torch.eye(2).to(fit)
        fit = fit - torch.linalg.solve(hessian, gradient)
    return fit
