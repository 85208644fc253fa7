"""Choice of the frames of a video that a panorama needs: those that overlap enough, and no more."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Image, as_gray, resize_within

_SIDE = 480  # longer side of the frames that are compared, pixels
_CORNERS = 300
_MIN_CORNERS = 30  # that are still tracked; with fewer the motion is not known
_MARGIN = 2.0  # pixels: RANSAC's threshold


class ChosenFrame(NamedTuple):
    """A frame of a video.

    Attributes:
        number: Number of the frame, from 0.
        image: ``[H, W, 3]`` uint8, RGB.
    """

    number: int
    image: Image


def choose_frames(
    frames: Iterable[tuple[int, NDArray[np.uint8]]], overlap: float = 0.6
) -> Iterator[ChosenFrame]:
    """Choose frames of a camera that turns, of which each overlaps with the one before.

    Corners are tracked from the last chosen frame on. The last frame that still sees enough of it
    is chosen next. The first and the last frame are always chosen.

    Args:
        frames: Numbers and frames, uint8 RGB ``[H, W, 3]`` of one size, read one by one.
        overlap: Share of a frame that the next chosen one still sees.

    Yields:
        Chosen frames; only two are held in memory.

    Raises:
        ValueError: `overlap` is not between 0 and 1.

    Example:
        >>> texture = np.random.default_rng(0).integers(0, 255, (20, 90), np.uint8)
        >>> wide = cv2.cvtColor(texture.repeat(8, 0).repeat(8, 1), cv2.COLOR_GRAY2RGB)
        >>> clip = ((k, wide[:, 10 * k : 10 * k + 240]) for k in range(40))
        >>> [frame.number for frame in choose_frames(clip)]
        [0, 9, 18, 27, 36, 39]

    Reference:
        Shi and Tomasi, Good Features to Track, CVPR 1994; Lucas and Kanade's tracker in pyramids.
    """
    if not 0 < overlap < 1:
        raise ValueError(f"overlap must be between 0 and 1, got {overlap}")
    track: _Track | None = None
    before: ChosenFrame | None = None
    for number, image in frames:
        frame = ChosenFrame(number, image)
        gray = resize_within(as_gray(image), _SIDE)
        if track is None:
            yield frame
            track = _Track(gray)
            continue
        if track.follow(gray) < overlap:
            # The frame before is the last with enough overlap, unless it is the chosen one itself.
            if before is not None:
                yield before
                track = _Track(resize_within(as_gray(before.image), _SIDE))
                if track.follow(gray) >= overlap:
                    before = frame
                    continue
            yield frame
            track, before = _Track(gray), None
            continue
        before = frame
    if before is not None:
        yield before


class _Track:
    """Corners of a frame, followed from frame to frame."""

    def __init__(self, gray: Image) -> None:
        self.first = self.last = gray
        corners = cv2.goodFeaturesToTrack(gray, _CORNERS, 0.01, 7)
        none = np.empty((0, 1, 2), np.float32)
        self.start = self.now = none if corners is None else np.asarray(corners, np.float32)

    def follow(self, gray: Image) -> float:
        """Return the share of the first frame that is seen in this one; 0 if it is not known."""
        if len(self.now) < _MIN_CORNERS:
            return 0.0
        moved, status, _ = cv2.calcOpticalFlowPyrLK(
            self.last, gray, self.now, np.empty(0, np.float32), winSize=(15, 15), maxLevel=3
        )
        found = np.asarray(status).ravel() != 0
        self.start, self.now, self.last = self.start[found], np.asarray(moved)[found], gray
        if len(self.now) < _MIN_CORNERS:
            return 0.0
        matrix, mask = cv2.findHomography(self.start, self.now, cv2.RANSAC, _MARGIN)
        if matrix is None or np.count_nonzero(mask) < _MIN_CORNERS:
            return 0.0
        inliers = np.asarray(mask).ravel() != 0
        self.start, self.now = self.start[inliers], self.now[inliers]
        H, W = gray.shape
        corners = np.array([[[0, 0]], [[W, 0]], [[W, H]], [[0, H]]], np.float32)
        quad = np.asarray(cv2.perspectiveTransform(corners, np.asarray(matrix)), np.float32)
        if not cv2.isContourConvex(quad):
            return 0.0
        common, _ = cv2.intersectConvexConvex(quad, corners)
        return float(common / max(H * W, abs(cv2.contourArea(quad))))
