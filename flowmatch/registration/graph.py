"""Registration of several scans: pairwise motions, and a pose graph that closes loops."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares  # type: ignore[import-untyped]
from torch import nn

from flowmatch.geometry import Matrix, invert_motion, rotation_about, transform_points
from flowmatch.geometry import motion as make_motion
from flowmatch.progress import ProgressCallback
from flowmatch.registration.keypoints import Points, as_points
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.prepare import (
    choose_voxel,
    describe_scan,
    prepare_scan,
    unit_hint,
    with_fewer_keypoints,
)
from flowmatch.registration.register import Registration, register_prepared
from flowmatch.registration.store import load_descriptors

_MAX_ERROR = 4.0  # voxels: an edge with a larger error contradicts its loops
_DEFAULTS = RegisterOptions()


class Edge(NamedTuple):
    """The registration of two of several scans.

    Attributes:
        source: Index of the source scan.
        target: Index of the target scan.
        registration: The registration of the pair.
        error: Root mean square distance, metres, between points moved by the final motions and by
            this registration; NaN if one of the scans is not placed.
        used: Whether it is trusted and not contradicted by a loop.
    """

    source: int
    target: int
    registration: Registration
    error: float
    used: bool


class MultiwayRegistration(NamedTuple):
    """The rigid motions of several scans to a common frame.

    Attributes:
        motions: ``[S, 4, 4]``, each scan to the frame of `anchor`; the identity if not placed.
        placed: ``[S]``: which scans are connected to the anchor by trusted registrations.
        anchor: Index of the scan that stays fixed: the first of the largest connected group.
        edges: Registrations of all pairs.
        voxel: Side of the down-sampling voxels, metres.
    """

    motions: NDArray[np.float64]
    placed: NDArray[np.bool_]
    anchor: int
    edges: list[Edge]
    voxel: float

    @property
    def trusted(self) -> bool:
        """Whether all scans are placed and no trusted registration is contradicted."""
        unused = any(e.registration.trusted and not e.used for e in self.edges)
        return bool(self.placed.all()) and not unused


class RelativeMotion(NamedTuple):
    """A measured motion between two scans: a constraint of the pose graph.

    Attributes:
        source: Index of the source scan.
        target: Index of the target scan.
        motion: ``[4, 4]``, source to target.
        points: ``[K, 3]``, points of the source that both scans show.
        weight: Weight of the constraint.
    """

    source: int
    target: int
    motion: Matrix
    points: Points
    weight: float


def register_many(
    scans: Sequence[ArrayLike],
    *,
    model: str | Path | nn.Module = "auto",
    device: str | torch.device | None = None,
    options: RegisterOptions = _DEFAULTS,
    viewpoints: Sequence[ArrayLike | None] | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
    progress: ProgressCallback | None = None,
) -> MultiwayRegistration:
    """Find the motions that lay several scans together, with loops closed.

    Pairs are registered, the trusted ones become a pose graph, and the motions of all scans are
    optimised jointly. Edges that loops contradict are dropped.

    Args:
        scans: Two or more scans, ``[N, 3]`` each, metres.
        model: See `register_scans`; ``"auto"`` takes the network for pairs that are not trusted,
            as long as trusted ones do not connect all scans.
        device: Device of the network; None takes a GPU where there is one, and leaves a given
            network on its device.
        options: Options of each registration, see `register_scans`.
        viewpoints: Position of each sensor, ``[3]`` in its scan's frame, if known.
        pairs: Pairs of indices to register; None takes all pairs.
        progress: Called with the stages ``"describe"`` (scans) and ``"register"`` (pairs).

    Raises:
        ValueError: Fewer than two scans, wrong shapes, invalid pairs, or an unknown model.
        FileNotFoundError: The file of weights does not exist.

    Example:
        >>> scan = np.random.default_rng(0).normal(size=(400, 3))
        >>> scans = [scan + [shift, 0, 0] for shift in (0, 5)]
        >>> result = register_many(scans, options=RegisterOptions(voxel=0.2))
        >>> result.motions[1, 0, 3].round(2)
        np.float64(-5.0)

    Reference:
        Choi, Zhou and Koltun, Robust Reconstruction of Indoor Scenes, CVPR 2015.
    """
    names = [f"scan {k + 1} of {len(scans)}" for k in range(len(scans))]
    clouds = [as_points(scan, name) for scan, name in zip(scans, names, strict=True)]
    count = len(clouds)
    if count < 2 or min(len(cloud) for cloud in clouds) < 10:
        raise ValueError(
            f"two or more scans of 10 points are needed, got {[len(cloud) for cloud in clouds]}"
        )
    views = [None] * count if viewpoints is None else list(viewpoints)
    if pairs is None:
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    if len(views) != count or any(
        not (0 <= i < count and 0 <= j < count and i != j) for i, j in pairs
    ):
        raise ValueError(f"viewpoints and pairs must fit {count} scans, got {views} and {pairs}")
    if options.scale:
        raise ValueError("the scale can be estimated for two scans, not for several")
    report = progress or (lambda stage, done, total: None)
    descriptors = load_descriptors(model, device=device)
    voxel = options.voxel or choose_voxel(*clouds)
    try:
        prepared = [
            prepare_scan(cloud, voxel, options, viewpoint=view, name=name)
            for cloud, view, name in zip(clouds, views, names, strict=True)
        ]
    except ValueError as error:
        raise ValueError(f"{error}{unit_hint(*clouds)}") from error
    results: dict[tuple[int, int], Registration] = {}
    for stage, descriptor in enumerate(descriptors):
        if stage > 0:
            prepared = [with_fewer_keypoints(scan, options.seed) for scan in prepared]
        open_pairs = [pair for pair in pairs if pair not in results or not results[pair].trusted]
        described = []
        for k, scan in enumerate(prepared):
            report("describe", k, count)
            described.append(describe_scan(scan, descriptor, voxel))
        report("describe", count, count)
        for k, (i, j) in enumerate(open_pairs):
            report("register", k, len(open_pairs))
            result = register_prepared(
                (prepared[i], prepared[j]),
                (described[i], described[j]),
                voxel,
                options,
                before=results.get((i, j)),
            )
            if (i, j) not in results or result.trusted or result.support > results[i, j].support:
                results[i, j] = result
        report("register", len(open_pairs), len(open_pairs))
        solution = _solve_graph(count, [(i, j, results[i, j]) for i, j in pairs], voxel)
        if solution.placed.all():
            break
    edges = [
        edge
        if edge.registration.trusted
        else edge._replace(registration=_with_hint(edge.registration, clouds, edge))
        for edge in solution.edges
    ]
    return solution._replace(edges=edges)


def _with_hint(result: Registration, clouds: Sequence[Points], edge: Edge) -> Registration:
    hint = unit_hint(clouds[edge.source], clouds[edge.target])
    return result._replace(reason=result.reason + hint)


def _solve_graph(
    count: int, results: Sequence[tuple[int, int, Registration]], voxel: float
) -> MultiwayRegistration:
    measured = [
        RelativeMotion(i, j, r.motion, r.correspondences[r.inliers, 0], r.support)
        for i, j, r in results
        if r.trusted
    ]
    while True:
        motions, placed, anchor = solve_poses(count, measured, voxel)
        errors = [_error(motions, edge) for edge in measured]
        # Dropped one at a time: a wrong edge increases the errors of correct ones.
        if not errors or max(errors) <= _MAX_ERROR * voxel:
            break
        del measured[int(np.argmax(errors))]
    used = {(edge.source, edge.target) for edge in measured}
    edges = []
    for i, j, r in results:
        points = r.correspondences[r.inliers, 0]
        known = placed[i] and placed[j] and len(points) > 0
        edge = RelativeMotion(i, j, r.motion, points, 1)
        error = _error(motions, edge) if known else float("nan")
        edges.append(Edge(i, j, r, error, (i, j) in used))
    return MultiwayRegistration(motions, placed, anchor, edges, voxel)


def solve_poses(
    count: int, edges: Sequence[RelativeMotion], scale: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    """Optimise the motions of scans given motions between pairs.

    Args:
        count: Number of scans, S.
        edges: Motions between pairs.
        scale: Error in metres beyond which the robust loss grows linearly.

    Returns:
        Motions to the anchor's frame ``[S, 4, 4]``, which scans are placed ``[S]``, and the index
        of the anchor.

    Example:
        >>> step = np.eye(4)
        >>> step[0, 3] = 1.0
        >>> edges = [RelativeMotion(k, k + 1, step, np.eye(3), 1.0) for k in range(2)]
        >>> solve_poses(3, edges, 0.1)[0][2, 0, 3].round(6)
        np.float64(-2.0)
    """
    group = _connected_groups(count, edges)
    anchor = max(range(count), key=lambda k: (sum(g == group[k] for g in group), -k))
    placed = np.array([g == group[anchor] for g in group])
    inside = [edge for edge in edges if placed[edge.source]]
    start = _spanning_tree(count, anchor, inside)
    free = [k for k in range(count) if placed[k] and k != anchor]
    if not free:
        return start, placed, anchor
    row = {k: n for n, k in enumerate(free)}
    # Rotations about the centroid of a scan's shared points decouple from translations.
    centroids = {k: _centroid(k, inside) for k in free}

    def poses(x: NDArray[np.float64]) -> NDArray[np.float64]:
        motions = start.copy()
        changes = torch.from_numpy(x.reshape(-1, 6))
        updates = make_motion(rotation_about(changes[:, :3]), changes[:, 3:]).numpy()
        for k in free:
            centre = transform_points(start[k], centroids[k])
            update = updates[row[k]].copy()
            update[:3, 3] += centre - update[:3, :3] @ centre
            motions[k] = update @ start[k]
        return motions

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        motions = poses(x)
        return np.concatenate([_residuals(motions, edge) for edge in inside]) / scale

    solution = least_squares(residuals, np.zeros(6 * len(free)), loss="soft_l1", x_scale=scale)
    return poses(solution.x), placed, anchor


def _residuals(motions: NDArray[np.float64], edge: RelativeMotion) -> NDArray[np.float64]:
    """Return displacements from the positions the edge predicts, times the root of its weight."""
    probes = _probe_points(edge.points)
    actual = transform_points(motions[edge.source], probes)
    predicted = transform_points(motions[edge.target], transform_points(edge.motion, probes))
    weighted: NDArray[np.float64] = (actual - predicted) * np.sqrt(edge.weight / len(probes))
    return weighted.ravel()


def _probe_points(points: Points) -> Points:
    """Return seven points with the moments of many: centroid, and both ways along the axes."""
    centre = points.mean(0)
    values, axes = np.linalg.eigh(np.cov(points.T) if len(points) > 1 else np.zeros((3, 3)))
    arms = axes.T * np.sqrt(np.maximum(values, 0))[:, None]
    return np.concatenate([centre[None], centre + arms, centre - arms])


def _centroid(scan: int, edges: Sequence[RelativeMotion]) -> Points:
    """Return the centroid of a scan's points in all its edges, ``[3]``."""
    parts = [edge.points for edge in edges if edge.source == scan]
    parts += [transform_points(edge.motion, edge.points) for edge in edges if edge.target == scan]
    return np.asarray(np.concatenate(parts).mean(0))


def _error(motions: NDArray[np.float64], edge: RelativeMotion) -> float:
    actual = transform_points(motions[edge.source], edge.points)
    predicted = transform_points(motions[edge.target], transform_points(edge.motion, edge.points))
    return float(np.sqrt(((actual - predicted) ** 2).sum(1).mean()))


def _connected_groups(count: int, edges: Sequence[RelativeMotion]) -> list[int]:
    """Return the number of the connected group of each scan."""
    group = [*range(count)]
    for edge in edges:
        old, new = group[edge.source], group[edge.target]
        group = [new if g == old else g for g in group]
    return group


def _spanning_tree(count: int, anchor: int, edges: Sequence[RelativeMotion]) -> NDArray[np.float64]:
    """Return initial motions along a maximum spanning tree from the anchor."""
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
            motions[best.target] = motions[best.source] @ invert_motion(best.motion)
            placed.add(best.target)
