"""Neighbouring frames of a video, to learn from without truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch.flow.synthetic.scene import FlowSample
from flowmatch.io.video import read_frames

MOST_PAIRS, MOST_BYTES = 256, 2**31  # kept in memory


@dataclass(frozen=True)
class ClipPairs:
    """Random parts of neighbouring frames, in a repeatable order; their flow is not known (NaN).

    Attributes:
        pairs: Frames that follow each other, uint8 ``[H, W, 3]``.
        size: Height and width of what is cut out.
        seed: Another seed, another order.
        length: The number of items it claims to have.
    """

    pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
    size: tuple[int, int]
    seed: int = 0
    length: int = 1_000_000

    @classmethod
    def from_video(cls, source: str | Path, size: tuple[int, int], seed: int = 0) -> "ClipPairs":
        """Read a video, or a folder of pictures.

        Of long ones every second, fourth, ... pair is kept, so that memory is bounded.

        Args:
            source: As in `flowmatch.io.read_frames`.
            size: Height and width of what is cut out; smaller frames give what they have.
            seed: Of the order.

        Raises:
            ValueError: There are no two frames, or they are smaller than 64 pixels to a side.
        """
        pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
        step, last, before = 1, -2, None
        for number, frame in read_frames(source).numbered():
            if before is not None and number == last + 1 and last % step == 0:
                pairs.append((before, frame))
                if len(pairs) > MOST_PAIRS or 2 * frame.nbytes * len(pairs) > MOST_BYTES:
                    pairs, step = pairs[::2], 2 * step
            last, before = number, frame
        if not pairs:
            raise ValueError(f"{source} holds no two frames that follow each other")
        size = (min(size[0], pairs[0][0].shape[0]), min(size[1], pairs[0][0].shape[1]))
        if min(size) < 64:
            raise ValueError(f"{source}: frames must have 64 pixels to a side, got {size}")
        return cls(pairs, size, seed)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> FlowSample:
        rng = np.random.default_rng([self.seed, index])
        first, second = self.pairs[int(rng.integers(len(self.pairs)))]
        h, w = self.size
        y, x = rng.integers(first.shape[0] - h + 1), rng.integers(first.shape[1] - w + 1)
        part: tuple[Any, ...] = (slice(y, y + h), slice(x, x + w), slice(None))
        if rng.random() < 0.5:  # backwards in time is a video too
            first, second = second, first
        unknown = np.full((h, w, 2), np.nan, np.float32)
        one, two = (np.ascontiguousarray(frame[part]) for frame in (first, second))
        return FlowSample(one, two, unknown, np.zeros((h, w), bool))
