"""Furnished rooms of solids given by signed distance functions, rendered by sphere tracing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

Float = NDArray[np.float32]
_PHASES = np.array([0.3, 1.1, 2.0], np.float32)  # so that no wave is zero at a solid's centre

_FURNITURE = (5, 9)  # range of the number of pieces
_MAX_STEPS = 48  # of sphere tracing; grazing rays would take thousands
_HIT_DISTANCE = 1e-3  # metres from a surface at which a ray ends


@dataclass(frozen=True)
class Solid:
    """A union of rounded boxes, balls and cylinders with an optional surface relief.

    Attributes:
        centre: Centre of the bounding sphere in the room, ``[3]``, metres.
        radius: Radius of the bounding sphere, metres.
        axes: Axes of the solid's frame in the room as rows, ``[3, 3]``.
        boxes: Centre relative to `centre`, half size and rounding radius, ``[B, 7]``.
        balls: Centre and radius, ``[S, 4]``.
        cylinders: Centre, radius and half height along z, ``[C, 5]``.
        bumps: Amplitude, metres, and frequency, per metre, of the surface relief; amplitude 0 is
            smooth.
        hollow: Whether the inside is free space, as for the walls of a room.
    """

    centre: Float
    radius: float
    axes: Float
    boxes: Float
    balls: Float
    cylinders: Float
    bumps: tuple[float, float] = (0.0, 1.0)
    hollow: bool = False

    def distance(self, points: Float) -> Float:
        """Return the signed distance, negative inside, ``[N]``, of points ``[N, 3]``.

        With a surface relief it is a lower bound, so that rays do not pass through the surface.

        Reference:
            Hart, Sphere tracing, The Visual Computer 1996; boxes and cylinders after its appendix.
        """
        at = (points - self.centre) @ self.axes.T
        best = np.full(len(at), np.inf, np.float32)
        for row in self.boxes:
            excess = np.abs(at - row[:3]) - (row[3:6] - row[6])
            outside = np.sqrt((np.maximum(excess, 0) ** 2).sum(1))
            np.minimum(best, outside + np.minimum(excess.max(1), 0) - row[6], out=best)
        for row in self.balls:
            np.minimum(best, np.sqrt(((at - row[:3]) ** 2).sum(1)) - row[3], out=best)
        for row in self.cylinders:
            local = at - row[:3]
            side = np.hypot(local[:, 0], local[:, 1]) - row[3]
            cap = np.abs(local[:, 2]) - row[4]
            outside = np.hypot(np.maximum(side, 0), np.maximum(cap, 0))
            np.minimum(best, outside + np.minimum(np.maximum(side, cap), 0), out=best)
        if self.hollow:
            best = -best
        amplitude, frequency = self.bumps
        if amplitude > 0:
            waves = np.sin(2 * np.pi * frequency * at + _PHASES).prod(1)
            best = (best + amplitude * waves) / (1 + 2 * np.pi * frequency * amplitude)
        return best.astype(np.float32)


@dataclass(frozen=True)
class Room:
    """A room: walls and furniture.

    Attributes:
        size: Length, width and height, metres; the origin is a corner and z points up.
        solids: Solids, the walls first.
    """

    size: Float
    solids: tuple[Solid, ...]

    def distance(self, points: Float) -> Float:
        """Return the distance to the nearest surface, ``[N]``, of points ``[N, 3]``, metres."""
        nearest: Float = np.min([solid.distance(points) for solid in self.solids], axis=0)
        return nearest

    def trace(self, start: Float, directions: Float) -> tuple[Float, Float]:
        """Trace rays from one point to the first surface.

        Args:
            start: ``[3]``, metres.
            directions: Unit vectors ``[N, 3]``.

        Returns:
            Lengths ``[N]``, metres, infinite without a hit; and the absolute cosine ``[N]`` between
            the ray and the surface normal.
        """
        lengths = np.full(len(directions), np.inf, np.float32)
        owner = np.zeros(len(directions), np.int64)
        for number, solid in enumerate(self.solids):
            chosen, first, last = _intersect_sphere(solid, start, directions)
            last = np.minimum(last, lengths[chosen])
            hits = _trace(solid, start, directions[chosen], first, last)
            nearer = hits < lengths[chosen]
            lengths[chosen[nearer]] = hits[nearer]
            owner[chosen[nearer]] = number
        return lengths, self._cosines(start, directions, lengths, owner)

    def _cosines(
        self, start: Float, directions: Float, lengths: Float, owner: NDArray[np.int64]
    ) -> Float:
        cosines = np.zeros(len(directions), np.float32)
        for number, solid in enumerate(self.solids):
            rays = np.flatnonzero((owner == number) & np.isfinite(lengths))
            if len(rays) == 0:
                continue
            at = start + lengths[rays, None] * directions[rays]
            distance = solid.distance(at)
            step = np.float32(2e-3)
            gradient = np.stack(
                [
                    solid.distance(at + step * axis) - distance
                    for axis in np.eye(3, dtype=np.float32)
                ],
                1,
            )
            size = np.maximum(np.linalg.norm(gradient, axis=1), 1e-9)
            cosines[rays] = np.abs((gradient * directions[rays]).sum(1)) / size
        return cosines


def _intersect_sphere(
    solid: Solid, start: Float, directions: Float
) -> tuple[NDArray[np.int64], Float, Float]:
    """Return the rays that hit a solid's bounding sphere, and their entry and exit lengths."""
    offset = solid.centre - start
    along = directions @ offset
    inside = solid.radius**2 - (offset @ offset - along**2)
    half = np.sqrt(np.maximum(inside, 0))
    chosen = np.flatnonzero((inside > 0) & (along + half > 0))
    first = np.maximum(along - half, np.float32(0))[chosen]
    return chosen, first.astype(np.float32), (along + half)[chosen].astype(np.float32)


def _trace(solid: Solid, start: Float, directions: Float, first: Float, last: Float) -> Float:
    """Return the lengths of rays to a solid, infinite without a hit between `first` and `last`."""
    lengths = first.copy()
    hits = np.full(len(first), np.inf, np.float32)
    active = np.flatnonzero(first < last)
    for _ in range(_MAX_STEPS):
        if len(active) == 0:
            break
        step = solid.distance(start + lengths[active, None] * directions[active])
        done = step < _HIT_DISTANCE
        hits[active[done]] = lengths[active[done]]
        lengths[active] += np.maximum(step, _HIT_DISTANCE / 2)
        active = active[~done & (lengths[active] < last[active])]
    return hits


def make_room(rng: np.random.Generator) -> Room:
    """Build a random room with furniture.

    Args:
        rng: Source of random numbers.

    Returns:
        A room of 2.5 to 5 m, with furniture of at most 2 m.

    Example:
        >>> room = make_room(np.random.default_rng(0))
        >>> bool(room.distance(room.size[None] / 2)[0] < 3)
        True
    """
    bare = bare_room(rng)
    room = Room(bare.size, (*bare.solids, _pilasters(rng, bare.size)))
    return furnish(room, rng, int(rng.integers(*_FURNITURE)))


def bare_room(rng: np.random.Generator) -> Room:
    """Return a rectangular room of 2.5 to 5 m without anything in it."""
    size = rng.uniform([2.5, 2.5, 2.3], [5.0, 4.5, 3.0]).astype(np.float32)
    half = (size / 2).astype(np.float32)
    walls = Solid(
        centre=half,
        radius=float(np.linalg.norm(half)) * 1.1,
        axes=np.eye(3, dtype=np.float32),
        boxes=_rows([[0, 0, 0, *half, 0]], 7),
        balls=_rows([], 4),
        cylinders=_rows([], 5),
        hollow=True,
    )
    return Room(size, (walls,))


def furnish(room: Room, rng: np.random.Generator, count: int) -> Room:
    """Return a room with further pieces of furniture at random places."""
    solids = list(room.solids)
    for _ in range(count):
        kind = _KINDS[int(rng.integers(len(_KINDS)))]
        solids.append(_place(rng, room.size, *kind(rng)))
    return Room(room.size, tuple(solids))


def free_position(room: Room, rng: np.random.Generator) -> Float:
    """Return a random position at head height, away from walls and furniture, ``[3]``."""
    size = room.size
    positions = rng.uniform([0.3, 0.3, 1.2], [size[0] - 0.3, size[1] - 0.3, 1.8], (64, 3))
    candidates = positions.astype(np.float32)
    free = np.flatnonzero(room.distance(candidates) > 0.3)
    chosen: Float = candidates[free[0] if len(free) else room.distance(candidates).argmax()]
    return chosen


def table_top(rng: np.random.Generator) -> Room:
    """Return a round table top around the origin, with a thing of 5 to 20 cm in its middle."""
    radius = float(rng.uniform(0.3, 0.5))
    parts: _Parts = ([], [], [])
    for _ in range(int(rng.integers(2, 5))):
        x, y = (float(v) for v in rng.uniform(-0.05, 0.05, 2))
        a, b, c = (float(v) for v in rng.uniform(0.01, 0.07, 3))
        kind = rng.integers(4)
        if kind < 2:
            parts[0].append([x, y, c, a, b, c, 0.0])
        elif kind == 2:
            parts[1].append([x, y, 0.8 * a, a])
        else:
            parts[2].append([x, y, c, 0.6 * a, c])
    boxes, balls, cylinders = parts
    cylinders.append([0, 0, -0.02, radius, 0.02])
    solid = Solid(
        np.zeros(3, np.float32), 1.1 * max(radius, 0.3), np.eye(3, dtype=np.float32),
        _rows(boxes, 7), _rows(balls, 4), _rows(cylinders, 5),
    )  # fmt: skip
    return Room(np.ones(3, np.float32), (solid,))


def _rows(rows: list[list[float]], width: int) -> Float:
    return np.array(rows, np.float32).reshape(-1, width)


_Parts = tuple[list[list[float]], list[list[float]], list[list[float]]]


def _place(
    rng: np.random.Generator, size: Float, boxes: list[list[float]], balls: list[list[float]],
    cylinders: list[list[float]],
) -> Solid:  # fmt: skip
    """Place parts, given relative to a point on the floor, at random in the room."""
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else np.pi / 2 * rng.integers(4)
    axes = Rotation.from_euler("z", angle).as_matrix().astype(np.float32)
    extents = [float(np.linalg.norm(np.abs(row[:3]) + row[3:6])) for row in boxes]
    extents += [float(np.linalg.norm(row[:3]) + row[3]) for row in balls]
    extents += [float(np.linalg.norm(row[:3]) + row[3] + row[4]) for row in cylinders]
    centre = np.array([*rng.uniform([0.4, 0.4], size[:2] - 0.4), 0], np.float32)
    # Most furniture is smooth; some is padded or crumpled.
    bumps = (0.0, 1.0)
    if rng.random() < 0.4:
        frequency = rng.uniform(2, 8)
        bumps = (float(rng.uniform(0.02, 0.12) / frequency), float(frequency))
    return Solid(
        centre, max(extents) + bumps[0], axes, _rows(boxes, 7), _rows(balls, 4),
        _rows(cylinders, 5), bumps,
    )  # fmt: skip


def _pilasters(rng: np.random.Generator, size: Float) -> Solid:
    """Return wall fixtures: ledges, frames, boards and pipes."""
    length, width, height = (float(side) for side in size)
    boxes: list[list[float]] = []
    cylinders: list[list[float]] = []
    for _ in range(int(rng.integers(2, 7))):
        side, along = rng.integers(4), float(rng.uniform(0.1, 0.9))
        deep, wide, high = (float(v) for v in rng.uniform([0.02, 0.1, 0.1], [0.15, 0.7, 0.6]))
        up = float(rng.uniform(0.3, height - 0.3))
        if side < 2:
            boxes.append([length * (side - 0.5), width * (along - 0.5), up, deep, wide, high, 0.01])
        else:
            boxes.append([length * (along - 0.5), width * (side - 2.5), up, wide, deep, high, 0.01])
    if rng.random() < 0.5:
        cylinders.append([0.06 - length / 2, float(rng.uniform(-0.4, 0.4)) * width, 1, 0.05, 1.5])
    centre = np.array([length / 2, width / 2, 0], np.float32)
    return Solid(
        centre, float(np.linalg.norm(size)), np.eye(3, dtype=np.float32),
        _rows(boxes, 7), _rows([], 4), _rows(cylinders, 5),
    )  # fmt: skip


def _clutter(rng: np.random.Generator, half: tuple[float, float], top: float, limit: int) -> _Parts:
    """Return up to `limit` small objects on a surface of a half size and height."""
    boxes, balls, cylinders = [], [], []
    for _ in range(int(rng.integers(1, limit + 1))):
        x, y = (float(v) for v in rng.uniform(-0.85, 0.85, 2) * half)
        a, b, c = (float(v) for v in rng.uniform(0.03, 0.17, 3))
        kind = rng.integers(3)
        if kind == 0:
            boxes.append([x, y, top + c, a, b, c, 0.3 * min(a, b, c) * float(rng.random())])
        elif kind == 1:
            balls.append([x, y, top + 0.8 * a, a])
        else:
            cylinders.append([x, y, top + c, 0.6 * a, c])
    return boxes, balls, cylinders


def _table(rng: np.random.Generator) -> _Parts:
    x, y, top = (float(v) for v in rng.uniform([0.35, 0.25, 0.4], [0.8, 0.5, 0.8]))
    boxes, balls, cylinders = _clutter(rng, (x, y), top, 6)
    boxes.append([0, 0, top - 0.02, x, y, 0.02, 0.005])
    for sx in (-1, 1):
        for sy in (-1, 1):
            leg = [sx * (x - 0.05), sy * (y - 0.05), top / 2]
            boxes.append([*leg, 0.025, 0.025, top / 2, 0.0])
    if rng.random() < 0.5:  # a screen
        boxes.append([0, 0, top + 0.28, 0.28, 0.02, 0.17, 0.01])
        boxes.append([0, 0, top + 0.05, 0.03, 0.03, 0.06, 0.01])
    return boxes, balls, cylinders


def _chair(rng: np.random.Generator) -> _Parts:
    seat, half = float(rng.uniform(0.4, 0.5)), float(rng.uniform(0.2, 0.26))
    thick = float(rng.uniform(0.02, 0.05))
    lean = float(rng.uniform(0.2, 0.3))
    boxes = [
        [0, 0, seat, half, half, thick, 0.9 * thick],
        [0, half, seat + lean + 0.08, half, thick, lean, 0.9 * thick],
    ]
    if rng.random() < 0.5:
        return boxes, [], [[0, 0, seat / 2, 0.03, seat / 2], [0, 0, 0.04, half, 0.03]]
    legs = [[sx * half * 0.85, sy * half * 0.85] for sx in (-1, 1) for sy in (-1, 1)]
    return boxes, [], [[*leg, seat / 2, 0.02, seat / 2] for leg in legs]


def _shelf(rng: np.random.Generator) -> _Parts:
    half, deep, high = (float(v) for v in rng.uniform([0.3, 0.12, 0.4], [0.6, 0.2, 0.95]))
    boxes = [[0, deep, high, half, 0.01, high, 0.0]]
    boxes += [[side * half, 0, high, 0.012, deep, high, 0.0] for side in (-1, 1)]
    balls: list[list[float]] = []
    cylinders: list[list[float]] = []
    levels = int(rng.integers(3, 6))
    for level in range(levels):
        up = 2 * high * level / (levels - 1)
        boxes.append([0, 0, up, half, deep, 0.012, 0.0])
        if rng.random() < 0.7:
            objects = _clutter(rng, (half, deep), up, 3)
            boxes, balls, cylinders = (
                boxes + objects[0], balls + objects[1], cylinders + objects[2],
            )  # fmt: skip
    return boxes, balls, cylinders


def _sofa(rng: np.random.Generator) -> _Parts:
    half, deep = (float(v) for v in rng.uniform([0.5, 0.35], [0.9, 0.45]))
    boxes = [
        [0, 0, 0.22, half, deep, 0.2, 0.08],
        [0, deep, 0.5, half, 0.12, 0.3, 0.1],
        [half, 0, 0.35, 0.1, deep, 0.25, 0.09],
        [-half, 0, 0.35, 0.1, deep, 0.25, 0.09],
    ]
    objects = _clutter(rng, (half, deep), 0.42, 3)
    return boxes + objects[0], objects[1], objects[2]


def _heap(rng: np.random.Generator) -> _Parts:
    """Return a heap of large simple solids: bins, crates and balls."""
    boxes, balls, cylinders = [], [], []
    for _ in range(int(rng.integers(2, 6))):
        x, y = (float(v) for v in rng.uniform(-0.4, 0.4, 2))
        a, b, c = (float(v) for v in rng.uniform(0.08, 0.35, 3))
        kind = rng.integers(3)
        if kind == 0:
            boxes.append([x, y, c, a, b, c, 0.5 * min(a, b, c) * float(rng.random())])
        elif kind == 1:
            balls.append([x, y, c, a])
        else:
            cylinders.append([x, y, c, a * 0.7, c])
    return boxes, balls, cylinders


_KINDS = (_table, _table, _chair, _shelf, _sofa, _heap)
