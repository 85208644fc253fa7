"""All that is drawn at random for a synthetic pair, and the pair that NumPy paints of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from flowmatch.flow.synthetic.effects import Effects, degrade, expose_moving
from flowmatch.flow.synthetic.scene import FlowSample, Scene

Generator = np.random.Generator


@dataclass(frozen=True)
class Flip:
    """How a pair is mirrored in the end, and its colours exchanged.

    Attributes:
        across: Left and right are exchanged.
        down: Top and bottom are exchanged.
        order: Which channel comes first, second and third.
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
    """All that is random about a pair.

    Attributes:
        scene: What there is and how it moves.
        effects: What air and camera do to the frames.
        flip: How they are mirrored in the end.
    """

    scene: Scene
    effects: Effects
    flip: Flip


def paint(plan: Plan, backward: bool = False) -> FlowSample:
    """Make the pair of a plan, by NumPy and OpenCV; `render_plans` does it for batches, by torch.

    Args:
        plan: What to paint.
        backward: Give the flow from the second frame to the first as well.
    """
    scene = plan.scene
    first, second = scene.view(0), scene.view(1)
    flow, occluded = scene.flow(first, 0, 1, seen=second)
    one, two = degrade(plan.effects, *expose_moving(scene, plan.effects.shutter, first, second))
    back = scene.flow(second, 1, 0, seen=first) if backward else (None, None)
    return flip(plan.flip, FlowSample(one, two, flow, occluded, *back))


def draw_flip(rng: Generator) -> Flip:
    """Draw how to mirror, left to right, top to bottom, or not; shuffle the colours sometimes."""
    across, down = rng.random() < 0.5, rng.random() < 0.5
    red, green, blue = rng.permutation(3).tolist() if rng.random() < 0.3 else range(3)
    return Flip(across, down, (red, green, blue))


def flip(how: Flip, sample: FlowSample) -> FlowSample:
    """Mirror a sample and order its colours."""
    place = (slice(None, None, -1 if how.down else 1), slice(None, None, -1 if how.across else 1))
    sign = np.array(how.sign, np.float32)

    def turned(name: str, part: Any) -> Any:
        if part is None:
            return None
        part = part[place]
        if name in ("first", "second"):
            part = part[..., list(how.order)]
        if name in ("flow", "backward"):
            part = part * sign
        return np.ascontiguousarray(part)

    return FlowSample(**{name: turned(name, part) for name, part in sample._asdict().items()})
