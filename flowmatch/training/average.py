"""Moving average of a network's weights, usually better than the final weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """An exponential moving average of everything in a model's state.

    ``average = d * average + (1 - d) * weights`` with ``d = min(decay, (1 + n) / (10 + n))`` after
    n updates, so that the first weights are forgotten soon.

    Args:
        model: Network whose state is averaged.
        decay: Largest d.

    Reference:
        Polyak & Juditsky, 1992; the growing decay is TensorFlow's `ExponentialMovingAverage`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.weights = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights after a step to the average."""
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for key, value in model.state_dict().items():
            mean = self.weights[key]
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)  # counters, such as batch normalisation's

    def restore(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Continue from the average in a checkpoint."""
        self.updates = updates
        for key, value in weights.items():
            self.weights[key].copy_(value)
