"""The random part of a synthetic pair, and its rendering by NumPy."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from flowmatch.flow.synthetic.effects import Effects, apply_effects, blur_motion
from flowmatch.flow.synthetic.scene import FlowSample, Scene
from flowmatch.imaging import Generator


@dataclass(frozen=True)
class Flip:
    """Mirroring of a pair, and the order of its colour channels.

    Attributes:
        across: Left and right are exchanged.
        down: Top and bottom are exchanged.
        order: Indices of the first, second and third channel.
    """

    across: bool = False
    down: bool = False
    order: tuple[int, int, int] = (0, 1, 2)

    @property
    def sign(self) -> tuple[float, float]:
        """Factors of the flow (u, v)."""
        return (-1.0 if self.across else 1.0, -1.0 if self.down else 1.0)


@dataclass(frozen=True)
class Plan:
    """The random part of a pair.

    Attributes:
        scene: Layers and their motion.
        effects: Effects of air and camera on the frames.
        flip: Mirroring of the rendered pair.
    """

    scene: Scene
    effects: Effects
    flip: Flip


def render_pair(plan: Plan, backward: bool = False) -> FlowSample:
    """Render one pair, by NumPy and OpenCV; `render_plans` renders batches, by torch.

    Args:
        plan: The random part of the pair.
        backward: Also give the flow from the second frame to the first.
    """
    scene = plan.scene
    first, second = scene.render(0), scene.render(1)
    flow, occluded = scene.flow(first, 0, 1, second)
    frames = blur_motion(scene, plan.effects.shutter, first, second)
    stored = apply_effects(plan.effects, *frames)
    back = scene.flow(second, 1, 0, first) if backward else (None, None)
    return apply_flip(plan.flip, FlowSample(*stored, flow, occluded, *back))


def sample_flip(rng: Generator) -> Flip:
    """Mirror each axis of half of the pairs, and shuffle the colours of three in ten."""
    across, down = rng.random() < 0.5, rng.random() < 0.5
    red, green, blue = rng.permutation(3).tolist() if rng.random() < 0.3 else range(3)
    return Flip(across, down, (red, green, blue))


def apply_flip(flip: Flip, sample: FlowSample) -> FlowSample:
    """Mirror a sample and order its colour channels."""
    window = (
        slice(None, None, -1 if flip.down else 1),
        slice(None, None, -1 if flip.across else 1),
    )
    sign = np.array(flip.sign, np.float32)

    def flipped(name: str, part: Any) -> Any:
        if part is None:
            return None
        part = part[window]
        if name in ("first", "second"):
            part = part[..., list(flip.order)]
        if name in ("flow", "backward"):
            part = part * sign
        return np.ascontiguousarray(part)

    return FlowSample(**{name: flipped(name, part) for name, part in sample._asdict().items()})
