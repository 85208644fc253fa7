"""Reader of Brown's patches: the PhotoTour sets Liberty, Notre Dame and Yosemite.

Reference:
    Brown, Hua and Winder, Discriminative Learning of Local Image Descriptors, PAMI 2011.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from flowmatch.io import read_image
from flowmatch.io._files import FilePath, existing_file, reason_of
from flowmatch.matching.data.stacks import (
    compare_stacks,
    describe_patches,
    descriptor_distances,
    resize_patches,
)
from flowmatch.matching.networks import DescriptorNetwork, PatchComparator
from flowmatch.matching.synthetic.pool import PatchPairs

SIDE = 64  # pixels of a patch
_ROW = 16  # patches per row and column of a file
_PER_FILE = _ROW * _ROW
_CHUNK = 4096  # patches that are described together
_MAX_BYTES = 2**28  # of a text file; the published ones have a few MB
_PAIRS = re.compile(r"m50_(\d+)_(\d+)_\d+\.txt")


class BrownPairs(NamedTuple):
    """Test pairs of a set.

    Attributes:
        first: Indices of patches, ``[N]``.
        second: Indices of patches, ``[N]``.
        same: ``[N]``, whether both patches show the same point.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]


@dataclass(frozen=True)
class BrownPatches:
    r"""Patches of one set.

    Attributes:
        folder: Folder with ``patches0000.bmp``, ... (16 x 16 patches of 64 x 64 pixels each) and
            ``info.txt`` (one line per patch, which begins with the number of its point).
        points: Number of the point that each patch shows, ``[N]``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged.

    Example:
        >>> import tempfile
        >>> from flowmatch.io import write_image
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_image(folder / "patches0000.bmp", np.zeros((1024, 1024), np.uint8))
        >>> _ = (folder / "info.txt").write_text("0 0\n0 0\n1 0\n")
        >>> patches = BrownPatches(folder)
        >>> len(patches), patches.read(np.array([2, 0])).shape
        (3, (2, 64, 64))
    """

    folder: Path
    points: NDArray[np.int64] = field(init=False, repr=False, compare=False)
    _mosaic: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the point numbers; images are read when they are needed."""
        folder = Path(self.folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"the folder {folder} does not exist")
        points = _table(folder / "info.txt")[:, 0]
        files = -(-len(points) // _PER_FILE)
        missing = [k for k in range(files) if not self._file(k).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{self._file(missing[0])} is missing; info.txt lists {len(points)} patches, "
                f"{_PER_FILE} per file"
            )
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "_mosaic", lru_cache(64)(self._read))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the images that were read."""
        return {"folder": self.folder, "points": self.points}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state, without images."""
        self.__dict__.update(state)
        object.__setattr__(self, "_mosaic", lru_cache(64)(self._read))

    def __len__(self) -> int:
        return len(self.points)

    def _file(self, number: int) -> Path:
        return Path(self.folder) / f"patches{number:04d}.bmp"

    def _read(self, number: int) -> NDArray[np.uint8]:
        mosaic = read_image(self._file(number))[..., 0]
        if mosaic.shape != (_ROW * SIDE, _ROW * SIDE):
            raise ValueError(
                f"{self._file(number)}: expected {_ROW} x {_ROW} patches of {SIDE} pixels, "
                f"1024 x 1024, got {mosaic.shape[1]} x {mosaic.shape[0]}"
            )
        grid = mosaic.reshape(_ROW, SIDE, _ROW, SIDE).swapaxes(1, 2)
        return np.ascontiguousarray(grid.reshape(_PER_FILE, SIDE, SIDE))

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return patches ``[K, 64, 64]``.

        Args:
            index: Indices of the patches, ``[K]``.

        Raises:
            IndexError: An index is out of range.
            ValueError: An image is damaged.
        """
        index = np.asarray(index, np.int64)
        if index.size and (index.min() < 0 or index.max() >= len(self)):
            raise IndexError(f"there are {len(self)} patches, got {index.min()} to {index.max()}")
        result = np.empty((len(index), SIDE, SIDE), np.uint8)
        numbers = index // _PER_FILE
        for number in np.unique(numbers):
            rows = numbers == number
            result[rows] = self._mosaic(int(number))[index[rows] % _PER_FILE]
        return result

    def pairs(self, path: FilePath | None = None) -> BrownPairs:
        """Read test pairs.

        Args:
            path: File ``m50_POSITIVES_NEGATIVES_0.txt``, with a patch, its point, a number, a
                patch, its point and more on each line. None takes the file of 100,000 pairs, or
                else the largest in the folder.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: The file is damaged, or refers to missing patches.
        """
        if path is None:
            path = self._default_pairs()
        table = _table(Path(path), columns=5)
        first, second = table[:, 0], table[:, 3]
        if min(first.min(), second.min()) < 0 or max(first.max(), second.max()) >= len(self):
            raise ValueError(f"{path}: refers to patches beyond the {len(self)} of info.txt")
        return BrownPairs(first, second, table[:, 1] == table[:, 4])

    def _default_pairs(self) -> Path:
        candidates = [
            (int(match[1]) != 100_000, -int(match[1]), file)
            for file in sorted(Path(self.folder).iterdir())
            if (match := _PAIRS.fullmatch(file.name))
        ]
        if not candidates:
            raise FileNotFoundError(f"{self.folder} has no pairs, m50_100000_100000_0.txt")
        return min(candidates)[2]


def _table(path: Path, columns: int = 1) -> NDArray[np.int64]:
    path = existing_file(path)
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: expected lines of numbers, got {path.stat().st_size} bytes")
    rows = [
        line.split()[:columns] for line in path.read_text("latin1").splitlines() if line.strip()
    ]
    try:
        table = np.array(rows, np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{path}: expected {columns} integers per line: {reason_of(error)}"
        ) from error
    if table.ndim != 2 or table.shape[1] != columns:
        raise ValueError(f"{path}: expected {columns} integers per line, got {len(rows)} lines")
    return table


def compare_pairs(
    network: DescriptorNetwork | PatchComparator | str, patches: BrownPatches, pairs: BrownPairs
) -> NDArray[np.float32]:
    """Compare test pairs; `fpr_at_recall` of the result is FPR95.

    Args:
        network: Descriptor, see `describe_patches`, or network that compares patches.
        patches: Patches of the set.
        pairs: N test pairs of the set.

    Returns:
        Similarities ``[N]``; higher is more similar.

    Raises:
        ValueError: An image is damaged.
    """
    if not isinstance(network, str) and not hasattr(network, "dim"):
        scores = []
        for k in range(0, len(pairs.first), _CHUNK):
            sides = (patches.read(side[k : k + _CHUNK]) for side in (pairs.first, pairs.second))
            scores.append(compare_stacks(network, *sides))
        return np.concatenate(scores)
    descriptor: Any = network
    unique, index = np.unique(np.concatenate([pairs.first, pairs.second]), return_inverse=True)
    descriptors = torch.cat(
        [
            describe_patches(descriptor, patches.read(unique[k : k + _CHUNK])).cpu()
            for k in range(0, len(unique), _CHUNK)
        ]
    )
    first, second = np.split(index.ravel(), 2)
    return -descriptor_distances(descriptors, descriptors, first, second)


@dataclass(frozen=True, kw_only=True)
class BrownSamples:
    """Endless training dataset of random points of a set, with two patches each.

    An item depends on its index and the seed only. Both patches of a point are rotated by the same
    right angle and mirrored together. The set determines how far its patches extend, in keypoint
    scales; the `magnification` of a network trained on them should be the same.

    Attributes:
        folder: Folder of the set, see `BrownPatches`.
        size: Side of the patches, S.
        points: Points per item, P.
        seed: Random seed of the dataset.
        length: Nominal number of items.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or no point has two patches.
    """

    folder: Path
    size: int = 32
    points: int = 128
    seed: int = 0
    length: int = 2**40
    _patches: BrownPatches = field(init=False, repr=False, compare=False)
    _members: list[NDArray[np.int64]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find the points with two patches or more."""
        patches = BrownPatches(self.folder)
        order = np.argsort(patches.points, kind="stable")
        starts = np.flatnonzero(np.diff(patches.points[order])) + 1
        members = [group for group in np.split(order, starts) if len(group) > 1]
        if not members:
            raise ValueError(f"{self.folder}: expected points with two patches, got none")
        object.__setattr__(self, "_patches", patches)
        object.__setattr__(self, "_members", members)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int, /) -> PatchPairs:
        """Return item `index`; raise IndexError beyond the end."""
        if not 0 <= index < self.length:
            raise IndexError(f"there are {self.length} items, got {index}")
        rng = np.random.default_rng([self.seed, 5, index])
        chosen = rng.integers(len(self._members), size=self.points)
        both = np.array([rng.permutation(self._members[k])[:2] for k in chosen])
        views = [resize_patches(self._patches.read(side), self.size) for side in both.T]
        quarter_turns = int(rng.integers(4))
        views = [np.rot90(view, quarter_turns, (1, 2)) for view in views]
        if rng.random() < 0.5:
            views = [view[:, ::-1] for view in views]
        location = np.zeros((self.points, 5), np.float32)
        location[:, 0] = chosen  # different points are never close
        return PatchPairs(views[0], views[1], location)
