"""Brown's patches, the PhotoTour sets Liberty, Notre Dame and Yosemite: reader and pairs.

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
from flowmatch.io._files import FilePath, existing_file
from flowmatch.matching.data.stacks import (
    compare_stacks,
    describe_patches,
    descriptor_distances,
    resize_patches,
)
from flowmatch.matching.networks import DescriptorNetwork, PatchComparator
from flowmatch.matching.synthetic.pool import PatchPairs

SIDE = 64  # pixels of a patch
_ROW = 16  # patches beside each other, and above
_PER_FILE = _ROW * _ROW
_AT_ONCE = 4096  # patches that are described together
_LARGEST = 2**28  # bytes of a text; the published ones have a few MB
_PAIRS = re.compile(r"m50_(\d+)_(\d+)_\d+\.txt")


class BrownPairs(NamedTuple):
    """Pairs of a test: indices of patches ``[N]`` twice, and whether both show one point."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    alike: NDArray[np.bool_]


@dataclass(frozen=True)
class BrownPatches:
    r"""The patches of one set.

    Attributes:
        folder: With ``patches0000.bmp``, ... (16 x 16 patches of 64 x 64 pixels each) and
            ``info.txt`` (a line for each patch, the number of its point first).

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
    """``[N]``: which point each patch shows."""
    _mosaic: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read which points there are; pictures are read when they are needed."""
        folder = Path(self.folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}")
        points = _table(folder / "info.txt")[:, 0]
        files = -(-len(points) // _PER_FILE)
        missing = [k for k in range(files) if not self._file(k).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{self._file(missing[0])} is missing; info.txt has {len(points)} patches, "
                f"{_PER_FILE} a file"
            )
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "_mosaic", lru_cache(64)(self._read))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was read."""
        return {"folder": self.folder, "points": self.points}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with nothing read."""
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

    def read(self, which: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return patches, ``[K, 64, 64]``.

        Args:
            which: Their numbers ``[K]``.

        Raises:
            IndexError: There is no such patch.
            ValueError: A picture is damaged.
        """
        wanted = np.asarray(which, np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"there are {len(self)} patches, got {wanted.min()} to {wanted.max()}")
        result = np.empty((len(wanted), SIDE, SIDE), np.uint8)
        numbers = wanted // _PER_FILE
        for number in np.unique(numbers):
            here = numbers == number
            result[here] = self._mosaic(int(number))[wanted[here] % _PER_FILE]
        return result

    def pairs(self, path: FilePath | None = None) -> BrownPairs:
        """Read the pairs of a test.

        Args:
            path: A file ``m50_POSITIVES_NEGATIVES_0.txt``: in each line a patch, its point, a
                number, a patch, its point, and more. None takes the one of 100,000 pairs, or else
                the largest of the folder.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else, or names patches that are not there.
        """
        if path is None:
            path = self._default_pairs()
        table = _table(Path(path), columns=5)
        first, second = table[:, 0], table[:, 3]
        if min(first.min(), second.min()) < 0 or max(first.max(), second.max()) >= len(self):
            raise ValueError(f"{path}: names patches beyond the {len(self)} of info.txt")
        return BrownPairs(first, second, table[:, 1] == table[:, 4])

    def _default_pairs(self) -> Path:
        found = [
            (int(match[1]) != 100_000, -int(match[1]), file)
            for file in sorted(Path(self.folder).iterdir())
            if (match := _PAIRS.fullmatch(file.name))
        ]
        if not found:
            raise FileNotFoundError(f"{self.folder} has no pairs, m50_100000_100000_0.txt")
        return min(found)[2]


def _table(path: Path, columns: int = 1) -> NDArray[np.int64]:
    path = existing_file(path)
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: expected lines of numbers, got {path.stat().st_size} bytes")
    rows = [
        line.split()[:columns] for line in path.read_text("latin1").splitlines() if line.strip()
    ]
    try:
        table = np.array(rows, np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: expected {columns} whole numbers a line: {error}") from error
    if table.ndim != 2 or table.shape[1] != columns:
        raise ValueError(f"{path}: expected {columns} whole numbers a line, got {len(rows)} lines")
    return table


def similarities_of_pairs(
    network: DescriptorNetwork | PatchComparator | str, patches: BrownPatches, pairs: BrownPairs
) -> NDArray[np.float32]:
    """Compare the pairs of a test; `fpr_at_recall` makes FPR95 of it.

    Args:
        network: What describes patches (a network, or a name as in `describe_patches`), or what
            compares them.
        patches: The set.
        pairs: Those of its method `pairs`, N of them.

    Returns:
        Similarities ``[N]``, more is closer.

    Raises:
        ValueError: A picture is damaged.
    """
    parts = range(0, len(pairs.first), _AT_ONCE)
    if not isinstance(network, str) and not hasattr(network, "dim"):
        found = []
        for k in parts:
            sides = (patches.read(side[k : k + _AT_ONCE]) for side in (pairs.first, pairs.second))
            found.append(compare_stacks(network, *sides))
        return np.concatenate(found)
    describer: Any = network
    shown, index = np.unique(np.concatenate([pairs.first, pairs.second]), return_inverse=True)
    described = torch.cat(
        [
            describe_patches(describer, patches.read(shown[k : k + _AT_ONCE])).cpu()
            for k in range(0, len(shown), _AT_ONCE)
        ]
    )
    first, second = np.split(index.ravel(), 2)
    return -descriptor_distances(described, described, first, second)


@dataclass(frozen=True, kw_only=True)
class BrownSamples:
    """Patches of random points of a set, two of each, to train on; item `i` is always the same.

    They are turned by right angles and mirrored, both of a point alike. How far they reach is the
    set's affair: the `magnification` of a network that is trained on them should say so.

    Attributes:
        folder: As in `BrownPatches`.
        size: Side of the patches, S.
        points: Points of an item, P.
        seed: Another seed, other items.
        length: The number of items it claims to have.

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
        """Find the points that are shown twice."""
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
        """Return item `index`; IndexError beyond the end."""
        if not 0 <= index < self.length:
            raise IndexError(f"there are {self.length} items, got {index}")
        rng = np.random.default_rng([self.seed, 5, index])
        chosen = rng.integers(len(self._members), size=self.points)
        both = np.array([rng.permutation(self._members[k])[:2] for k in chosen])
        views = [resize_patches(self._patches.read(side), self.size) for side in both.T]
        turns = int(rng.integers(4))
        views = [np.rot90(view, turns, (1, 2)) for view in views]
        if rng.random() < 0.5:
            views = [view[:, ::-1] for view in views]
        place = np.zeros((self.points, 5), np.float32)
        place[:, 0] = chosen  # no two points are close
        return PatchPairs(views[0], views[1], place)
