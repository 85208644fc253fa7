"""How many right registrations are trusted, and how many wrong ones."""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # type: ignore[import-untyped]
from scipy.stats import beta  # type: ignore[import-untyped]

from flowmatch.geometry import Matrix, transform_points
from flowmatch.progress import ProgressCallback
from flowmatch.registration.data.datasets import PosedScan, find_posed_scans
from flowmatch.registration.evaluation.methods import Registrar
from flowmatch.registration.integrate import integrate_depth
from flowmatch.registration.keypoints import Points, voxel_down
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.prepare import choose_voxel
from flowmatch.registration.synthetic.cases import CASES, Case, turned

_MIN_OVERLAP = 0.3  # share of the smaller scan's points near the other one
_SHARED = 0.07  # metres within which a point counts as shared
_MAX_SHARED = 0.005  # share of points of scans without overlap
_MAX_ERROR = 4.0  # voxels of a right motion, root mean square; 20 cm in a room
_ATTEMPTS = 400  # pairs of scans that are looked at for each one kept
_DEFAULTS = RegisterOptions()


class Interval(NamedTuple):
    """Bounds of a share with 95 % confidence."""

    low: float
    high: float


class TrustScores(NamedTuple):
    """Verdicts on the registrations of one kind of pairs by one method.

    Attributes:
        method: Name of the method.
        kind: Kind of the pairs.
        pairs: Number of pairs.
        right: Number of right motions.
        right_trusted: Number of these that are trusted.
        wrong_trusted: Number of trusted motions that are wrong, or that nothing can show to be
            right.
        error: Median over the right motions of the median distance between a point where the
            motion puts it and where it belongs, metres; NaN without right motions.
        seconds: Median CPU time per pair.
    """

    method: str
    kind: str
    pairs: int
    right: int
    right_trusted: int
    wrong_trusted: int
    error: float
    seconds: float

    @property
    def wrong(self) -> int:
        """Number of motions that are wrong."""
        return self.pairs - self.right

    @property
    def right_interval(self) -> Interval:
        """Share of right motions that are trusted."""
        return share_interval(self.right_trusted, self.right)

    @property
    def wrong_interval(self) -> Interval:
        """Share of wrong motions that are trusted."""
        return share_interval(self.wrong_trusted, self.wrong)


def share_interval(count: int, total: int) -> Interval:
    """Return the 95 % interval of a share.

    Example:
        >>> [round(bound, 2) for bound in share_interval(0, 30)]
        [0.0, 0.12]

    Reference:
        Clopper and Pearson, Biometrika 26, 1934.
    """
    low = float(beta.ppf(0.025, count, total - count + 1)) if count > 0 else 0.0
    high = float(beta.ppf(0.975, count + 1, total - count)) if count < total else 1.0
    return Interval(low, high)


class _Trial(NamedTuple):
    kind: str
    case: Case


@dataclass
class _Tally:
    errors: list[float] = field(default_factory=list)  # of right motions
    seconds: list[float] = field(default_factory=list)
    right_trusted: int = 0
    wrong_trusted: int = 0


def measure_trust(
    methods: Mapping[str, Registrar],
    *,
    folders: Sequence[str | Path] = (),
    pairs: int = 20,
    rendered: int = 0,
    frames_per_fragment: int = 1,
    max_depth: float | None = None,
    options: RegisterOptions = _DEFAULTS,
    progress: ProgressCallback | None = None,
) -> list[TrustScores]:
    """Measure how many right and how many wrong registrations are trusted.

    All scans are moved at random first. Pairs of scans of one folder overlap by 30 % or more, or by
    less than 0.5 %; those of two folders show different places. Rendered pairs show rooms and
    tables, some of which fit in several ways: nothing should be trusted there.

    Args:
        methods: Functions that register two scans, by name.
        folders: Folders of depth frames with poses, or of ``src.*``, ``ref.*`` and ``gt.npy``.
        pairs: Maximum number of pairs of each kind, of the folders.
        rendered: Number of rendered pairs of each kind.
        frames_per_fragment: Number of consecutive depth frames that are integrated into a scan; 1
            takes single frames.
        max_depth: Depth of frames beyond which measurements are ignored, metres; None keeps all.
        options: Options of the registrations; the seed also chooses the pairs.
        progress: Called with the stage ``"evaluate"`` and the number of registrations done.

    Returns:
        A row for each method and kind of pairs.

    Raises:
        ValueError: There are no pairs, a file is damaged, or an argument is out of range.
        FileNotFoundError: A folder does not exist.
    """
    if not methods or not (folders or rendered):
        raise ValueError("methods, and folders or a number of rendered pairs, are needed")
    scans = [
        scan
        for folder in folders
        for scan in find_scans(folder, frames_per_fragment, max_depth=max_depth)
    ]
    tallies: dict[tuple[str, str], _Tally] = {}
    total = len(methods) * (rendered * len(CASES) + (3 * pairs if folders else 0))
    for done, trial in enumerate(_trials(scans, pairs, rendered, options.seed)):
        for k, (name, register) in enumerate(methods.items()):
            tally = tallies.setdefault((name, trial.kind), _Tally())
            _measure(register, trial.case, options, tally)
            if progress is not None:
                at = done * len(methods) + k + 1
                progress("evaluate", at, max(total, at))
    if not tallies:
        raise ValueError(
            f"no pairs that overlap enough, or not at all, in {list(map(str, folders))}"
        )
    return [
        TrustScores(
            name,
            kind,
            len(tally.seconds),
            len(tally.errors),
            tally.right_trusted,
            tally.wrong_trusted,
            float(np.median(tally.errors)) if tally.errors else float("nan"),
            float(np.median(tally.seconds)),
        )
        for (name, kind), tally in tallies.items()
    ]


def find_scans(
    folder: str | Path, frames_per_fragment: int = 1, *, max_depth: float | None = None
) -> list[PosedScan]:
    """Find scans with poses, as `find_posed_scans`, with depth frames integrated into fragments.

    Args:
        folder: Folder of depth frames with poses, or of ``src.*``, ``ref.*`` and ``gt.npy``, or
            with such subfolders.
        frames_per_fragment: Number of consecutive depth frames in a scan; 1 takes single frames.
        max_depth: Depth of frames beyond which measurements are ignored, metres; None keeps all.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The folder has none of these layouts, a file is damaged, or an argument is out
            of range.
    """
    if frames_per_fragment < 1:
        raise ValueError(f"frames_per_fragment must be positive, got {frames_per_fragment}")
    scans = find_posed_scans(folder, max_depth=max_depth)
    if frames_per_fragment == 1:
        return scans
    root = Path(folder)
    places = {place.name: place for place in (root, *root.iterdir())}
    fragments: list[PosedScan] = []
    for scene, found in _by_scene(scans).items():
        if not (places[scene] / "poses.txt").is_file():
            fragments += found
            continue
        for fragment in integrate_depth(
            places[scene], frames=frames_per_fragment, max_depth=max_depth or np.inf
        ):
            read = functools.partial(np.asarray, fragment.surface.points, np.float64)
            fragments.append(PosedScan(scene, fragment.frames[0], read, fragment.pose))
    return fragments


def _by_scene(scans: Sequence[PosedScan]) -> dict[str, list[PosedScan]]:
    scenes: dict[str, list[PosedScan]] = {}
    for scan in scans:
        scenes.setdefault(scan.scene, []).append(scan)
    return scenes


def _trials(scans: Sequence[PosedScan], pairs: int, rendered: int, seed: int) -> Iterator[_Trial]:
    for kind, render in CASES.items():
        for index in range(rendered):
            yield _Trial(kind, render(seed, index))
    rng = np.random.default_rng([seed, 6])
    by_scene = _by_scene(scans)
    yield from _pairs_of_one_scene(list(by_scene.values()), pairs, rng)
    if len(by_scene) > 1:
        for _ in range(pairs):
            chosen = rng.choice(len(by_scene), 2, replace=False)
            scenes = [list(by_scene.values())[k] for k in chosen]
            a, b = (scene[int(rng.integers(len(scene)))] for scene in scenes)
            yield _Trial("two places", turned(Case(a.read(), b.read(), None), rng))


def _pairs_of_one_scene(
    scenes: list[list[PosedScan]], pairs: int, rng: np.random.Generator
) -> Iterator[_Trial]:
    """Yield random pairs that overlap, and random pairs that do not."""
    counts = {"overlap": 0, "no overlap": 0}
    scenes = [scene for scene in scenes if len(scene) > 1]
    seen: set[tuple[str, str, str]] = set()
    coarse: dict[tuple[str, str], Points] = {}
    for _ in range(_ATTEMPTS * pairs if scenes else 0):
        if min(counts.values()) >= pairs:
            return
        scene = scenes[int(rng.integers(len(scenes)))]
        i, j = rng.choice(len(scene), 2, replace=False)
        a, b = scene[int(i)], scene[int(j)]
        if (a.scene, a.name, b.name) in seen:
            continue
        seen.add((a.scene, a.name, b.name))
        for scan in (a, b):
            if (scan.scene, scan.name) not in coarse:
                points = transform_points(scan.pose, voxel_down(scan.read(), 0.05))
                coarse[scan.scene, scan.name] = points
        share = _overlap(coarse[a.scene, a.name], coarse[b.scene, b.name])
        if _MAX_SHARED <= share < _MIN_OVERLAP:
            continue
        kind = "overlap" if share >= _MIN_OVERLAP else "no overlap"
        if counts[kind] >= pairs:
            continue
        counts[kind] += 1
        truth = np.linalg.inv(b.pose) @ a.pose if kind == "overlap" else None
        yield _Trial(kind, turned(Case(a.read(), b.read(), truth), rng))


def _overlap(first: Points, second: Points) -> float:
    """Return the share of the smaller cloud's points that are near the other one."""
    small, large = sorted((first, second), key=len)
    near = cKDTree(large).query(small, distance_upper_bound=_SHARED)[0]
    return float(np.isfinite(near).mean())


def _measure(register: Registrar, case: Case, options: RegisterOptions, tally: _Tally) -> None:
    start = time.process_time()
    motion, trusted = register(case.source, case.target, (None, None), options)
    tally.seconds.append(time.process_time() - start)
    voxel = options.voxel or choose_voxel(case.source, case.target)
    distance: NDArray[np.float64] = np.full(1, np.inf)
    if case.truth is not None:
        distance = _distances(motion, case.truth, voxel_down(case.source, voxel))
    is_right = float(np.sqrt((distance**2).mean())) < _MAX_ERROR * voxel
    if is_right:
        tally.errors.append(float(np.median(distance)))
        tally.right_trusted += trusted
    else:
        tally.wrong_trusted += trusted


def _distances(motion: Matrix, truth: Matrix, points: Points) -> NDArray[np.float64]:
    moved = transform_points(motion, points) - transform_points(truth, points)
    distances: NDArray[np.float64] = np.linalg.norm(moved, axis=1)
    return distances
