"""Hidden points, found again by their descriptors in the first frame."""

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Image, as_gray
from flowmatch.matching.describe import describe_keypoints
from flowmatch.matching.keypoints import Keypoints

_DESCRIPTOR = "rootsift"  # needs no network: many places are described in each frame
_SCALE = 2.0  # of the keypoints, pixels
_STEP = 4  # distance of the places that are compared, pixels
_SMALLEST_RADIUS, _GROWTH, _LARGEST_RADIUS = 8, 2, 24  # of the search: first, per frame, at most
_MAX_DISTANCE = 0.55  # of descriptors of one point; unrelated ones are about 1 apart
_LK_SIDE, _LK_LEVELS = 15, 1  # window of the exact position, and further levels of its pyramid
_MAX_RETURN = 0.7  # error of the round trip between both frames, pixels
_MOST_POINTS = 400  # searched in a frame, in turn


class Anchors:
    """Descriptors of points in the first frame of a clip.

    Args:
        image: First frame, RGB ``[H, W, 3]``.
        points: Points (x, y) in it, ``[N, 2]``.
    """

    def __init__(self, image: Image, points: NDArray[np.float64]) -> None:
        self.gray = as_gray(image)
        self.points = points.astype(np.float32)
        self.descriptors = _describe(self.gray, self.points)
        self._turn = 0

    def search(
        self,
        image: Image,
        indices: NDArray[np.int64],
        guesses: NDArray[np.float64],
        hidden_for: NDArray[np.int64],
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Search points in a frame.

        The place whose descriptor is most similar is moved to the exact position by Lucas-Kanade,
        from the first frame; it is accepted if the way back returns to the point.

        Args:
            image: The frame.
            indices: Indices of the points, ``[M]``.
            guesses: Places around which they are searched, ``[M, 2]``.
            hidden_for: Number of frames for which each has been hidden, ``[M]``.

        Returns:
            Positions ``[M, 2]``, and whether each point was found, ``[M]``.
        """
        places, found = guesses.copy(), np.zeros(len(indices), np.bool_)
        gray = as_gray(image)
        chosen = self._choose(guesses, gray)
        if not len(chosen):
            return places, found
        radii = (_SMALLEST_RADIUS + _GROWTH * hidden_for).clip(max=_LARGEST_RADIUS)
        candidates, owners = _around(guesses[chosen], radii[chosen], gray.shape)
        if not len(candidates):
            return places, found
        wanted = self.descriptors[indices[chosen]][owners]
        distance = np.linalg.norm(_describe(gray, candidates) - wanted, axis=1)
        order = np.lexsort((distance, owners))
        owned, first = np.unique(owners[order], return_index=True)
        best = order[first]
        near = distance[best] <= _MAX_DISTANCE
        rows, starts = chosen[owned[near]], candidates[best[near]]
        if len(rows):
            exact, agree = self._refine(gray, indices[rows], starts)
            places[rows[agree]] = exact[agree]
            found[rows[agree]] = True
        return places, found

    def _choose(self, guesses: NDArray[np.float64], gray: Image) -> NDArray[np.int64]:
        """Return the rows that are searched in this frame: in the picture, and not too many."""
        height, width = gray.shape
        margin = _LARGEST_RADIUS
        low, high = -margin, (width + margin, height + margin)
        rows = np.flatnonzero(((guesses > low) & (guesses < high)).all(1))
        if len(rows) <= _MOST_POINTS:
            return rows
        start = self._turn % len(rows)
        self._turn += _MOST_POINTS
        return np.sort(np.roll(rows, -start)[:_MOST_POINTS])

    def _refine(
        self, gray: Image, indices: NDArray[np.int64], starts: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        anchor = self.points[indices]
        exact, forward = _lucas_kanade(self.gray, gray, anchor, starts)
        back, backward = _lucas_kanade(gray, self.gray, exact, anchor)
        agree = forward & backward & (np.linalg.norm(back - anchor, axis=1) <= _MAX_RETURN)
        agree &= np.linalg.norm(exact - starts, axis=1) <= 1.5 * _STEP
        return exact, agree


def _describe(gray: Image, points: NDArray[np.float32]) -> NDArray[np.float32]:
    count = len(points)
    scale, zeros = np.full(count, _SCALE, np.float32), np.zeros(count, np.float32)
    keypoints = Keypoints(points, scale, zeros, zeros)
    return np.asarray(describe_keypoints(gray, keypoints, model=_DESCRIPTOR).numpy(), np.float32)


def _around(
    centres: NDArray[np.float64], radii: NDArray[np.int64], shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the places around each centre that lie in the picture, and their centres' numbers."""
    ticks = np.arange(-_LARGEST_RADIUS, _LARGEST_RADIUS + 1, _STEP)
    offsets = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
    within = np.abs(offsets).max(1) <= radii[:, None]
    owners, which = np.nonzero(within)
    places = centres[owners] + offsets[which]
    kept = ((places >= 0) & (places <= np.array(shape[1::-1]) - 1)).all(1)
    return places[kept].astype(np.float32), owners[kept]


def _lucas_kanade(
    first: Image,
    second: Image,
    points: NDArray[np.float32],
    guesses: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    ends, status, _ = cv2.calcOpticalFlowPyrLK(
        first,
        second,
        points[:, None].copy(),
        guesses[:, None].copy(),
        winSize=(_LK_SIDE, _LK_SIDE),
        maxLevel=_LK_LEVELS,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return np.asarray(ends[:, 0], np.float32), np.asarray(status[:, 0] > 0)
