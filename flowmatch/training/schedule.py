"""Training schedule: number of steps, batch size, learning rate."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Number of steps, batch size and learning rate of a run.

    Attributes:
        steps: Optimiser steps in all.
        batch: Samples in a step, summed over all processes.
        learning_rate: Highest learning rate.
        weight_decay: Weight decay of AdamW.
        warmup: Share of the steps in which the rate rises to its highest value.
        clip: Largest norm of the gradient.
        halve: Steps at which the rate is halved. If empty, the rate falls along a cosine to nearly
            zero (one cycle, Smith & Topin 2018).
        average: Decay of the exponential moving average of the weights, which a run returns; 0
            returns the final weights.

    Example:
        >>> schedule = Schedule(steps=100, batch=8, learning_rate=1.0, warmup=0.1)
        >>> [round(schedule.rate_at(step), 2) for step in (0, 10, 55, 99)]
        [0.04, 1.0, 0.5, 0.0]
    """

    steps: int
    batch: int
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.04
    clip: float = 1.0
    halve: tuple[int, ...] = ()
    average: float = 0.999

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: `steps` or `batch` is below 1, or `average` is outside [0, 1).
        """
        if self.steps < 1 or self.batch < 1 or not 0 <= self.average < 1:
            raise ValueError(
                "steps and batch must be at least 1 and average in [0, 1), "
                f"got {self.steps}, {self.batch} and {self.average}"
            )

    def rate_at(self, step: int) -> float:
        """Return the learning rate of `step`, counted from 0."""
        peak, warm = self.learning_rate, self.warmup * self.steps
        if step < warm:
            return peak * (0.04 + 0.96 * _rise(step / warm))
        if self.halve:
            return float(peak * 0.5 ** sum(step >= at for at in self.halve))
        return peak * (1e-4 + (1 - _rise((step - warm) / max(self.steps - warm, 1))))


def _rise(share: float) -> float:
    """Return a smooth step from 0 to 1."""
    return 0.5 - 0.5 * math.cos(math.pi * share)
