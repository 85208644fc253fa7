"""Several scans: register pairs, and let the loops that they make correct each other."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares  # type: ignore[import-untyped]

from flowmatch.geometry import motion as as_motion
from flowmatch.geometry import rotation_about
from flowmatch.registration.describe import Network
from flowmatch.registration.icp import Matrix, inverse, move
from flowmatch.registration.keypoints import Points, as_points
from flowmatch.registration.register import (
    RegisterOptions,
    Registration,
    choose_voxel,
    prepare,
    register_scans,
)

_FAR = 4.0  # voxels: an edge that is off by more contradicts its loops


class Edge(NamedTuple):
    """How two of several scans fit together."""

    source: int
    target: int
    registration: Registration
    error: float
    """How far, root mean square, the final motions take points from where this registration puts
    them, metres; NaN if one of the scans has no place."""
    used: bool
    """It is trusted, and no loop contradicts it."""


class Merged(NamedTuple):
    """Where several scans lie."""

    motions: NDArray[np.float64]
    """``[S, 4, 4]``, each scan to the frame of `anchor`; the identity where it has no place."""
    placed: NDArray[np.bool_]
    """``[S]``: which scans are tied to the anchor by trusted registrations."""
    anchor: int
    """The scan that stays where it is: the first of the largest group that hangs together."""
    edges: list[Edge]
    voxel: float

    @property
    def trusted(self) -> bool:
        """All scans have a place, and no trusted registration is contradicted."""
        unused = any(e.registration.trusted and not e.used for e in self.edges)
        return bool(self.placed.all()) and not unused


class Measured(NamedTuple):
    """What a pose graph is made of: a motion between two scans, and where it was seen."""

    source: int
    target: int
    motion: Matrix
    """``[4, 4]``, source to target."""
    points: Points
    """``[K, 3]``, points of the source that are in both."""
    weight: float


def register_many(
    network: Network,
    scans: Sequence[ArrayLike],
    options: RegisterOptions | None = None,
    *,
    viewpoints: Sequence[ArrayLike | None] | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
    progress: Callable[[str, int, int], None] = lambda task, done, total: None,
) -> Merged:
    """Find the motions that lay several scans together, with loops closed.

    Pairs are registered, the trusted ones become a graph, and the motions of all scans are found
    at once so that they agree with all edges as well as can be. Edges that loops contradict are
    dropped.

    Args:
        network: One of `MODELS`, trained; or ``"fpfh"``.
        scans: Two or more, ``[N, 3]`` each, metres.
        options: How; as for `register`.
        viewpoints: Where each sensor stood, if known; as for `register`.
        pairs: Which to try; None tries all.
        progress: Called with what is being done, how much is, and of how much.

    Returns:
        `Merged`.

    Raises:
        ValueError: Fewer than two scans, wrong shapes, or pairs that are none.
        ImportError: ``refine="gicp"``, and small-gicp is not installed.

    Example:
        >>> scan = np.random.default_rng(0).normal(size=(400, 3))
        >>> shifted = [scan + [shift, 0, 0] for shift in (0, 5)]
        >>> register_many("fpfh", shifted, RegisterOptions(voxel=0.2)).motions[1, 0, 3].round(2)
        np.float64(-5.0)

    Reference:
        Choi, Zhou and Koltun, Robust Reconstruction of Indoor Scenes, CVPR 2015.
    """
    options = options or RegisterOptions()
    names = [f"scan {k + 1} of {len(scans)}" for k in range(len(scans))]
    clouds = [as_points(scan, name) for scan, name in zip(scans, names, strict=True)]
    count = len(clouds)
    if count < 2 or min(len(cloud) for cloud in clouds) < 10:
        raise ValueError(
            f"two or more scans of 10 points are needed, got {[len(cloud) for cloud in clouds]}"
        )
    views = [None] * count if viewpoints is None else list(viewpoints)
    tried = [(i, j) for i in range(count) for j in range(i + 1, count)] if pairs is None else pairs
    if len(views) != count or any(
        not (0 <= i < count and 0 <= j < count and i != j) for i, j in tried
    ):
        raise ValueError(f"viewpoints and pairs must fit {count} scans, got {views} and {pairs}")
    voxel = options.voxel or choose_voxel(*clouds)
    ready = []
    for k, cloud in enumerate(clouds):
        progress("describe", k, count)
        ready.append(prepare(network, cloud, voxel, options, viewpoint=views[k], name=names[k]))
    progress("describe", count, count)
    found = []
    for k, (i, j) in enumerate(tried):
        progress("register", k, len(tried))
        found.append((i, j, register_scans(ready[i], ready[j], voxel, options)))
    progress("register", len(tried), len(tried))
    return _merge(count, found, voxel)


def _merge(count: int, found: Sequence[tuple[int, int, Registration]], voxel: float) -> Merged:
    measured = [
        Measured(i, j, r.motion, r.correspondences[r.inliers, 0], r.evidence)
        for i, j, r in found
        if r.trusted
    ]
    while True:
        motions, placed, anchor = solve_poses(count, measured, voxel)
        errors = [_error(motions, edge) for edge in measured]
        # One at a time: a wrong edge bends the right ones beside it.
        if not errors or max(errors) <= _FAR * voxel:
            break
        del measured[int(np.argmax(errors))]
    kept = {(edge.source, edge.target) for edge in measured}
    edges = []
    for i, j, r in found:
        near = r.correspondences[r.inliers, 0]
        both = placed[i] and placed[j] and len(near) > 0
        error = _error(motions, Measured(i, j, r.motion, near, 1)) if both else float("nan")
        edges.append(Edge(i, j, r, error, (i, j) in kept))
    return Merged(motions, placed, anchor, edges, voxel)


def solve_poses(
    count: int, edges: Sequence[Measured], scale: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    """Find the motions of scans that agree best with the motions between pairs.

    Args:
        count: How many scans, S.
        edges: Motions between pairs.
        scale: Error that counts as large, metres: beyond, an edge pulls with a constant force.

    Returns:
        Motions to the anchor's frame ``[S, 4, 4]``, which have a place ``[S]``, and the anchor.

    Example:
        >>> step = np.eye(4)
        >>> step[0, 3] = 1.0
        >>> edges = [Measured(k, k + 1, step, np.eye(3), 1.0) for k in range(2)]
        >>> solve_poses(3, edges, 0.1)[0][2, 0, 3].round(6)
        np.float64(-2.0)
    """
    group = _groups(count, edges)
    anchor = max(range(count), key=lambda k: (sum(g == group[k] for g in group), -k))
    placed = np.array([g == group[anchor] for g in group])
    inside = [edge for edge in edges if placed[edge.source]]
    start = _spanning_tree(count, anchor, inside)
    free = [k for k in range(count) if placed[k] and k != anchor]
    if not free:
        return start, placed, anchor
    at = {k: 6 * n for n, k in enumerate(free)}
    # About the middle of what an edge sees, where rotation and shift do not fight.
    middles = {k: _middle(k, inside) for k in free}

    def poses(x: NDArray[np.float64]) -> NDArray[np.float64]:
        moved = start.copy()
        changes = torch.from_numpy(x.reshape(-1, 6))
        turns = as_motion(rotation_about(changes[:, :3]), changes[:, 3:]).numpy()
        for k in free:
            middle = move(start[k], middles[k])
            turn = turns[at[k] // 6].copy()
            turn[:3, 3] += middle - turn[:3, :3] @ middle
            moved[k] = turn @ start[k]
        return moved

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        now = poses(x)
        return np.concatenate([_off(now, edge) for edge in inside]) / scale

    solved = least_squares(residuals, np.zeros(6 * len(free)), loss="soft_l1", x_scale=scale)
    return poses(solved.x), placed, anchor


def _off(motions: NDArray[np.float64], edge: Measured) -> NDArray[np.float64]:
    """Return how far points end from where the edge puts them, times the root of its weight."""
    probes = _probes(edge.points)
    here = move(motions[edge.source], probes)
    there = move(motions[edge.target], move(edge.motion, probes))
    off: NDArray[np.float64] = ((here - there) * np.sqrt(edge.weight / len(probes))).ravel()
    return off


def _probes(points: Points) -> Points:
    """Return seven points that move as many do: their middle, and both ways along their axes."""
    middle = points.mean(0)
    values, axes = np.linalg.eigh(np.cov(points.T) if len(points) > 1 else np.zeros((3, 3)))
    arms = axes.T * np.sqrt(np.maximum(values, 0))[:, None]
    return np.concatenate([middle[None], middle + arms, middle - arms])


def _middle(scan: int, edges: Sequence[Measured]) -> Points:
    parts = [edge.points for edge in edges if edge.source == scan]
    parts += [move(edge.motion, edge.points) for edge in edges if edge.target == scan]
    return np.asarray(np.concatenate(parts).mean(0))


def _error(motions: NDArray[np.float64], edge: Measured) -> float:
    here = move(motions[edge.source], edge.points)
    there = move(motions[edge.target], move(edge.motion, edge.points))
    return float(np.sqrt(((here - there) ** 2).sum(1).mean()))


def _groups(count: int, edges: Sequence[Measured]) -> list[int]:
    """Number the scans by the group that hangs together."""
    group = [*range(count)]
    for edge in edges:
        old, new = group[edge.source], group[edge.target]
        group = [new if g == old else g for g in group]
    return group


def _spanning_tree(count: int, anchor: int, edges: Sequence[Measured]) -> NDArray[np.float64]:
    """Place scans by the best edges that reach them, from the anchor on."""
    motions = np.tile(np.eye(4), (count, 1, 1))
    placed = {anchor}
    while True:
        border = [e for e in edges if (e.source in placed) != (e.target in placed)]
        if not border:
            return motions
        best = max(border, key=lambda edge: edge.weight)
        if best.target in placed:
            motions[best.source] = motions[best.target] @ best.motion
            placed.add(best.source)
        else:
            motions[best.target] = motions[best.source] @ inverse(best.motion)
            placed.add(best.target)
