"""Rendered pairs of scans, of which it is known whether a registration may be trusted."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

from flowmatch.geometry import Matrix, invert_motion, transform_points
from flowmatch.io import depth_to_points
from flowmatch.registration.keypoints import Points
from flowmatch.registration.synthetic.pairs import (
    ScanPair,
    Sensor,
    SyntheticScans,
    aim_camera,
    render_depth,
)
from flowmatch.registration.synthetic.solids import (
    Room,
    bare_room,
    free_position,
    furnish,
    table_top,
)

_RAYS = 20_000  # of a laser scan
_LASER_NOISE = 0.004  # metres
_STATIONS = 3  # of the laser scanner in a room
_CLOSE_RANGE = Sensor(size=(180, 240), noise=(0.0005, 0.0005), quantization=0.0, holes=0.02)


class Case(NamedTuple):
    """A pair of scans, and the motion between them.

    Attributes:
        source: ``[N, 3]``, metres.
        target: ``[M, 3]``, metres.
        truth: ``[4, 4]``, source to target; None if no motion may be trusted, because the scans do
            not overlap, or because several motions fit equally.
    """

    source: Points
    target: Points
    truth: Matrix | None


def overlapping_views(seed: int, index: int) -> Case:
    """Return two depth images of a furnished room that overlap by about 30 % or more."""
    pair: ScanPair = SyntheticScans(seed=seed)[index]
    return turned(Case(*pair), _rng(seed, index, 0))


def views_of_two_rooms(seed: int, index: int) -> Case:
    """Return depth images of two different rooms."""
    pairs = SyntheticScans(seed=seed)
    source, target = pairs[index].source, pairs[index + 1].target
    return turned(Case(source, target, None), _rng(seed, index, 1))


def changed_furniture(seed: int, index: int) -> Case:
    """Return laser scans of a rectangular room before and after all furniture was replaced.

    Turned by half a turn about the vertical, the walls fit as well.
    """
    rng = _rng(seed, index, 2)
    room = bare_room(rng)
    clouds = [_laser_scan(furnish(room, rng, int(rng.integers(3, 8))), rng) for _ in range(2)]
    return turned(Case(clouds[0], clouds[1], None), rng)


def symmetric_room(seed: int, index: int) -> Case:
    """Return laser scans of a rectangular room whose furniture stands twice, half a turn apart."""
    rng = _rng(seed, index, 3)
    bare = bare_room(rng)
    room = furnish(bare, rng, int(rng.integers(0, 4)))
    half_turn = np.diag([-1.0, -1.0, 1.0]).astype(np.float32)
    twins = [
        dataclasses.replace(
            solid,
            centre=np.array([*(room.size[:2] - solid.centre[:2]), solid.centre[2]], np.float32),
            axes=solid.axes @ half_turn,
        )
        for solid in room.solids[1:]
    ]
    both = Room(room.size, (*room.solids, *twins))
    return turned(Case(_laser_scan(both, rng), _laser_scan(both, rng), None), rng)


def thing_on_table(seed: int, index: int) -> Case:
    """Return two depth images of a thing on a round table, from 15 to 60 degrees apart."""
    rng = _rng(seed, index, 4)
    scene = table_top(rng)
    poses = _around_table(rng)
    clouds = [_depth_image(scene, pose, rng) for pose in poses]
    truth = invert_motion(poses[1]) @ poses[0]
    return turned(Case(clouds[0], clouds[1], truth), rng)


def other_thing_on_table(seed: int, index: int) -> Case:
    """Return depth images of a round table with two different things on it, in turn."""
    rng = _rng(seed, index, 5)
    clouds = [_depth_image(table_top(rng), pose, rng) for pose in _around_table(rng)]
    return turned(Case(clouds[0], clouds[1], None), rng)


CASES: dict[str, Callable[[int, int], Case]] = {
    "overlapping views of a room": overlapping_views,
    "thing on a table": thing_on_table,
    "views of two rooms": views_of_two_rooms,
    "room, all furniture changed": changed_furniture,
    "symmetric room": symmetric_room,
    "another thing on the table": other_thing_on_table,
}


def _rng(seed: int, index: int, kind: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, 5, kind])


def turned(case: Case, rng: np.random.Generator) -> Case:
    """Move both scans by random motions, so that their frames tell nothing."""
    motions = []
    for _ in range(2):
        motion = np.eye(4)
        motion[:3, :3] = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
        motion[:3, 3] = rng.normal(size=3)
        motions.append(motion)
    truth = None if case.truth is None else motions[1] @ case.truth @ invert_motion(motions[0])
    source, target = (
        transform_points(motion, scan)
        for motion, scan in zip(motions, (case.source, case.target), strict=True)
    )
    return Case(source, target, truth)


def _laser_scan(room: Room, rng: np.random.Generator) -> Points:
    """Return points from stations of a laser scanner in a room, in the room's frame."""
    clouds = []
    for _ in range(_STATIONS):
        start = free_position(room, rng)
        rays = rng.normal(size=(_RAYS, 3)).astype(np.float32)
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        lengths, cosines = room.trace(start, rays)
        seen = np.isfinite(lengths) & (cosines > 0.1)
        measured = lengths[seen] + _LASER_NOISE * rng.standard_normal(int(seen.sum()))
        clouds.append(start + measured[:, None] * rays[seen])
    return np.concatenate(clouds).astype(np.float64)


def _around_table(rng: np.random.Generator) -> tuple[Matrix, Matrix]:
    """Return poses of two cameras that look at the middle of a table top."""
    first = float(rng.uniform(0, 2 * np.pi))
    angles = first, first + np.radians(rng.uniform(15, 60)) * (1 if rng.random() < 0.5 else -1)
    poses = []
    for angle in angles:
        distance, height = rng.uniform(0.6, 1.0), rng.uniform(0.35, 0.7)
        eye = np.array([distance * np.cos(angle), distance * np.sin(angle), height])
        poses.append(aim_camera(eye, np.array([0.0, 0.0, 0.05]), rng))
    return poses[0], poses[1]


def _depth_image(scene: Room, pose: Matrix, rng: np.random.Generator) -> Points:
    depth = render_depth(scene, pose, _CLOSE_RANGE, rng)
    return depth_to_points(depth, _CLOSE_RANGE.intrinsics)
