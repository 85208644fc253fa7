"""Rendered pairs for evaluation, of a distribution that no network is trained on."""

from pathlib import Path
from typing import NamedTuple

from flowmatch.flow.data.datasets import LoadedPair
from flowmatch.flow.synthetic import Sources, SyntheticFlow

TEXTURES = range(1_000_000, 1_000_040)
"""Seeds of the procedural textures; training takes the seeds from 0."""
MOTIONS = {"slow": 0.15, "medium": 0.7, "fast": 1.8, "very fast": 3.5}
"""Factors on the motion; training takes others, 0.3, 1 and 2.5."""
PLANES = 0.5
"""Share of scenes in space under a moving camera; training takes 0.35."""
SIZE = (288, 384)
"""Height and width of the frames."""
_FIRST_SEED = 1_000_000  # far from those of training


class RenderedPair(NamedTuple):
    """A pair that is rendered when it is loaded.

    Attributes:
        name: Unique name, such as ``"rendered/slow/0"``.
        sequence: Name of all pairs of its motion, such as ``"rendered/slow"``.
        pairs: Dataset of the pairs of its motion.
        item: Index of the pair in the dataset.
    """

    name: str
    sequence: str
    pairs: SyntheticFlow
    item: int

    def load(self) -> LoadedPair:
        """Render the pair."""
        sample = self.pairs[self.item]
        return LoadedPair(sample.first, sample.second, sample.flow, sample.occluded)


def render_held_out(count: int, seed: int = 0, photos: Path | None = None) -> list[RenderedPair]:
    """Return rendered pairs of all motions in turn, always the same for one seed.

    Args:
        count: Number of pairs.
        seed: Random seed.
        photos: Folder of photographs that training did not see; None takes procedural textures.

    Raises:
        ValueError: The count is not positive.
        FileNotFoundError: The folder is missing or holds no picture.

    Example:
        >>> [pair.name for pair in render_held_out(2)]
        ['rendered/slow/0', 'rendered/medium/1']
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    photographs = Sources.from_folders(photos).photos
    sources = Sources(photographs, textures=TEXTURES)
    names = list(MOTIONS)
    datasets = {
        name: SyntheticFlow(
            sources, SIZE, motion=((factor, 1.0),), planes=PLANES, seed=_FIRST_SEED + seed
        )
        for name, factor in MOTIONS.items()
    }
    return [
        RenderedPair(f"rendered/{name}/{i}", f"rendered/{name}", datasets[name], i)
        for i in range(count)
        for name in [names[i % len(names)]]
    ]
