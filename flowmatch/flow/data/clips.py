"""Neighbouring frames of a video, for unsupervised training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowmatch.flow.synthetic.scene import FlowSample
from flowmatch.imaging import Image
from flowmatch.io.video import read_frames

MAX_PAIRS, MAX_BYTES = 256, 2**31
"""Largest number of pairs and of bytes that are kept in memory."""


@dataclass(frozen=True)
class ClipPairs:
    """Random crops of neighbouring frames, in a repeatable order; their flow is unknown (NaN).

    Attributes:
        pairs: Pairs of consecutive frames, uint8 ``[H, W, 3]``.
        size: Height and width of the crops.
        seed: Random seed.
        length: Number of items.
    """

    pairs: list[tuple[Image, Image]]
    size: tuple[int, int]
    seed: int = 0
    length: int = 1_000_000

    @classmethod
    def from_video(cls, source: str | Path, size: tuple[int, int], seed: int = 0) -> "ClipPairs":
        """Read a video, or a folder of images.

        Of long videos only every second, fourth, ... pair is kept, which bounds the memory.

        Args:
            source: Input of `flowmatch.io.read_frames`.
            size: Height and width of the crops, at most those of the frames.
            seed: Random seed.

        Raises:
            ValueError: Fewer than two consecutive frames, or frames of less than 64 pixels to a
                side.
        """
        pairs: list[tuple[Image, Image]] = []
        step, last, previous = 1, -2, None
        for number, frame in read_frames(source).numbered():
            if previous is not None and number == last + 1 and last % step == 0:
                pairs.append((previous, frame))
                if len(pairs) > MAX_PAIRS or 2 * frame.nbytes * len(pairs) > MAX_BYTES:
                    pairs, step = pairs[::2], 2 * step
            last, previous = number, frame
        if not pairs:
            raise ValueError(f"{source} holds no two consecutive frames")
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
        window: tuple[Any, ...] = (slice(y, y + h), slice(x, x + w), slice(None))
        if rng.random() < 0.5:  # half of the pairs run backwards in time
            first, second = second, first
        unknown = np.full((h, w, 2), np.nan, np.float32)
        first, second = (np.ascontiguousarray(frame[window]) for frame in (first, second))
        return FlowSample(first, second, unknown, np.zeros((h, w), bool))
