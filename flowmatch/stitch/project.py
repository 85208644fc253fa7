"""Projection of photos onto the surface of a panorama."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Image
from flowmatch.stitch.cameras import Camera
from flowmatch.stitch.photos import Size

PROJECTIONS = {
    "plane": "plane",
    "cylindrical": "cylindrical",
    "spherical": "spherical",
    "mercator": "mercator",
    "stereographic": "stereographic",
    "fisheye": "fisheye",
    "panini": "paniniA2B1",
    "rectilinear": "compressedPlaneA2B1",
}
"""OpenCV's name of each projection. Stereographic and fisheye look down from above: they make
little planets."""
_ROUND = (
    "cylindrical",
    "spherical",
    "mercator",
)  # surfaces whose left and right edges are one line
_MAX_SIDE = 32_000  # OpenCV's remap counts in 16 bits


class Box(NamedTuple):
    """Place of a warped photo in the panorama: its upper left pixel and its size."""

    left: int
    top: int
    width: int
    height: int

    @property
    def corner(self) -> tuple[int, int]:
        """Upper left pixel, x, y."""
        return self.left, self.top


class Warped(NamedTuple):
    """A warped photo, or a part of it.

    Attributes:
        box: Place in the panorama.
        image: ``[h, w, 3]``.
        mask: ``[h, w]`` uint8, 255 inside the photo, else 0.
    """

    box: Box
    image: Image
    mask: Image


class Projector:
    """Warps photos of rotating cameras onto a surface, and photos of affine cameras onto a plane.

    Args:
        motion: ``"rotation"`` or ``"affine"``.
        projection: A name in `PROJECTIONS`; affine cameras always take the plane.
        radius: Pixels of the panorama per radian, at its middle, for photos of full size.
        scale: Factor of the photos' sides.
    """

    def __init__(self, motion: str, projection: str, radius: float, scale: float) -> None:
        self._affine = motion == "affine"
        self._scale = scale
        self._radius = radius * scale
        self._round = not self._affine and projection in _ROUND
        # Any, because OpenCV's stub lacks the class.
        self._warper: Any = cv2.PyRotationWarper(PROJECTIONS[projection], radius * scale)

    def box(self, camera: Camera, size: Size) -> Box:
        """Return the place of a photo in the panorama.

        Args:
            camera: Camera of the photo.
            size: Width and height of the photo, already scaled.

        Raises:
            ValueError: The warped photo would be empty or too large.
        """
        if self._affine:
            box = _affine_box(camera.affine(self._scale), size)
        else:
            box = Box(*self._warper.warpRoi(size, *self._rotation(camera)))
        if not 0 < max(box.width, box.height) < _MAX_SIDE or min(box.width, box.height) < 1:
            raise ValueError(
                f"{camera.name} would cover {box.width} x {box.height} pixels of the panorama; "
                "choose another projection (spherical covers all directions) or fewer "
                "megapixels"
            )
        return box

    def straddles(self, camera: Camera, size: Size) -> bool:
        """Return whether a photo lies at both edges of the panorama, with nothing between.

        Args:
            camera: Camera of the photo.
            size: Width and height of the photo, already scaled.
        """
        if not self._round:
            return False
        _, _, width, _ = self._warper.warpRoi(size, *self._rotation(camera))
        period = 2 * np.pi * self._radius
        if width <= period / 2:
            return False
        K, R = self._rotation(self._turned(camera, -self._azimuth(camera)))
        # A photo over a pole is as wide in the middle.
        return bool(self._warper.warpRoi(size, K, R)[2] < width - period / 50)

    def closes(self, page: Box) -> bool:
        """Return whether a panorama of all photos goes all around, so that its edges meet."""
        return self._round and page.width == 2 * int(np.pi * self._radius) + 1

    def boxes(self, camera: Camera, size: Size, *, straddles: bool) -> list[Box]:
        """Return the place of a photo, or the places of both parts of one that straddles.

        Args:
            camera: Camera of the photo.
            size: Width and height of the photo, already scaled.
            straddles: Whether to cut the photo at the edges of the panorama, see `straddles`.

        Raises:
            ValueError: The warped photo would be empty or too large.
        """
        if not straddles:
            return [self.box(camera, size)]
        boxes = []
        for shift in self._shifts(camera):
            box = self.box(self._turned(camera, -shift), size)
            columns = self._columns(box.left + shift, box.width)
            boxes.append(Box(columns.start, box.top, len(columns), box.height))
        return boxes

    def parts(
        self, camera: Camera, image: Image, mask: Image | None = None, *, straddles: bool
    ) -> list[Warped]:
        """Warp a photo, cut at the edges of the panorama if it straddles.

        Args:
            camera: Camera of the photo.
            image: ``[H, W, 3]``, already scaled.
            mask: ``[H, W]``, 255 inside the photo, else 0; None if it is inside everywhere.
            straddles: Whether to cut the photo, see `straddles`.

        Returns:
            One part, or one for each edge.
        """
        if not straddles:
            return [Warped(*self.warp(camera, image, mask))]
        parts = []
        for shift in self._shifts(camera):
            box, warped, inside = self.warp(self._turned(camera, -shift), image, mask)
            columns = self._columns(box.left + shift, box.width)
            start = columns.start - shift - box.left
            kept = slice(start, start + len(columns))
            place = Box(columns.start, box.top, len(columns), box.height)
            cut = (np.ascontiguousarray(pixels[:, kept]) for pixels in (warped, inside))
            parts.append(Warped(place, *cut))
        return parts

    def _azimuth(self, camera: Camera) -> int:
        """Return the column of the middle of a photo, from the middle of the panorama."""
        x, _, z = camera.matrix[:, 2]
        return round(float(np.arctan2(x, z)) * self._radius)

    def _shifts(self, camera: Camera) -> tuple[int, int]:
        """Return the middles of a photo left and right of the panorama's edges, in columns."""
        column, period = self._azimuth(camera), round(2 * np.pi * self._radius)
        return (column, column - period) if column > 0 else (column + period, column)

    def _columns(self, left: int, width: int) -> range:
        """Return those of a photo's columns that lie in the panorama; at least one."""
        last = int(np.pi * self._radius)
        start = min(max(left, -last), last)
        return range(start, max(start, min(left + width - 1, last)) + 1)

    def _turned(self, camera: Camera, columns: int) -> Camera:
        """Return a camera turned to the right by a whole number of columns."""
        angle = columns / self._radius
        c, s = np.cos(angle), np.sin(angle)
        return camera._replace(matrix=np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ camera.matrix)

    def warp(
        self, camera: Camera, image: Image, mask: Image | None = None
    ) -> tuple[Box, Image, Image]:
        """Warp a photo.

        Args:
            camera: Camera of the photo.
            image: ``[H, W, 3]``, already scaled.
            mask: ``[H, W]``, 255 inside the photo, else 0; None if it is inside everywhere.

        Returns:
            The place of the warped photo, its pixels ``[h, w, 3]``, and its mask ``[h, w]``: 255
            inside the photo, else 0.
        """
        box = self.box(camera, (image.shape[1], image.shape[0]))
        full = np.full(image.shape[:2], 255, np.uint8) if mask is None else mask
        if self._affine:
            warped = self._warp_affine(camera, box, image, cv2.INTER_CUBIC, cv2.BORDER_REFLECT)
            mask = self._warp_affine(camera, box, full, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
            return box, warped, mask
        K, R = self._rotation(camera)
        corner, warped = self._warper.warp(image, K, R, cv2.INTER_CUBIC, cv2.BORDER_REFLECT)
        _, mask = self._warper.warp(full, K, R, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
        return (
            Box(corner[0], corner[1], warped.shape[1], warped.shape[0]),
            warped,
            np.asarray(mask, np.uint8),
        )

    def _rotation(self, camera: Camera) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        K = camera.intrinsics(self._scale).astype(np.float32)
        return K, camera.matrix.astype(np.float32)

    def _warp_affine(
        self, camera: Camera, box: Box, image: Image, interpolation: int, border: int
    ) -> Image:
        matrix = camera.affine(self._scale)[:2].copy()
        matrix[:, 2] -= box.corner
        size = (box.width, box.height)
        warped = cv2.warpAffine(image, matrix, size, flags=interpolation, borderMode=border)
        return np.asarray(warped, np.uint8)


def _affine_box(matrix: NDArray[np.float64], size: Size) -> Box:
    W, H = size[0] - 1, size[1] - 1
    corners = np.array([(0, 0, 1), (W, 0, 1), (W, H, 1), (0, H, 1)], np.float64) @ matrix[:2].T
    left, top = np.floor(corners.min(axis=0) + 1e-6).astype(int).tolist()
    right, bottom = np.ceil(corners.max(axis=0) - 1e-6).astype(int).tolist()
    return Box(left, top, right - left + 1, bottom - top + 1)


def median_focal(cameras: Sequence[Camera]) -> float:
    """Return the median focal length, the radius of a panorama as sharp as its photos."""
    return float(np.median([camera.focal for camera in cameras]))
