"""Photos onto the surface of a panorama: where they land, and how they look there."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.stitch.cameras import Camera
from flowmatch.stitch.photos import Image, Size

# Names of flowmatch, and of OpenCV. Its stereographic and fisheye look down from above: they make
# little planets.
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
_LONGEST_SIDE = 32_000  # OpenCV's remap counts in 16 bits


class Box(NamedTuple):
    """Where a photo lands in the panorama: its upper left pixel and its size."""

    left: int
    top: int
    width: int
    height: int

    @property
    def corner(self) -> tuple[int, int]:
        """The upper left pixel, x, y."""
        return self.left, self.top


class Projector:
    """Projects photos of turning cameras onto a surface, or moves those of affine ones.

    Args:
        model: Of the cameras.
        projection: A name in `PROJECTIONS`; affine cameras know only a plane.
        radius: Pixels of the panorama per radian, at its middle, for full photos.
        scale: By which the sides of the photos are multiplied.
    """

    def __init__(self, model: str, projection: str, radius: float, scale: float) -> None:
        self._affine = model == "affine"
        self._scale = scale
        # The type of OpenCV's stub does not know the class.
        self._warper: Any = cv2.PyRotationWarper(PROJECTIONS[projection], radius * scale)

    def box(self, camera: Camera, size: Size) -> Box:
        """Return where a photo of `size`, already scaled, lands.

        Raises:
            ValueError: It lands nowhere that fits into memory.
        """
        if self._affine:
            box = _affine_box(camera.affine(self._scale), size)
        else:
            box = Box(*self._warper.warpRoi(size, *self._rotation(camera)))
        if not 0 < max(box.width, box.height) < _LONGEST_SIDE or min(box.width, box.height) < 1:
            raise ValueError(
                f"{camera.name} would cover {box.width} x {box.height} pixels of the panorama; "
                "choose another projection (spherical has room for all directions) or fewer "
                "megapixels"
            )
        return box

    def warp(self, camera: Camera, image: Image) -> tuple[Box, Image, Image]:
        """Return where a photo lands, how it looks there, and the mask of its pixels.

        Args:
            camera: Of the photo.
            image: ``[H, W, 3]``, its sides already multiplied by the scale.

        Returns:
            The box, the picture ``[h, w, 3]`` and the mask ``[h, w]``, 255 where the photo is.
        """
        box = self.box(camera, (image.shape[1], image.shape[0]))
        full = np.full(image.shape[:2], 255, np.uint8)
        if self._affine:
            moved = self._move(camera, box, image, cv2.INTER_CUBIC, cv2.BORDER_REFLECT)
            mask = self._move(camera, box, full, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
            return box, moved, mask
        K, R = self._rotation(camera)
        corner, moved = self._warper.warp(image, K, R, cv2.INTER_CUBIC, cv2.BORDER_REFLECT)
        _, mask = self._warper.warp(full, K, R, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
        return (
            Box(corner[0], corner[1], moved.shape[1], moved.shape[0]),
            moved,
            np.asarray(mask, np.uint8),
        )

    def _rotation(self, camera: Camera) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        K = camera.intrinsics(self._scale).astype(np.float32)
        return K, camera.matrix.astype(np.float32)

    def _move(self, camera: Camera, box: Box, image: Image, how: int, border: int) -> Image:
        matrix = camera.affine(self._scale)[:2].copy()
        matrix[:, 2] -= box.corner
        size = (box.width, box.height)
        moved = cv2.warpAffine(image, matrix, size, flags=how, borderMode=border)
        return np.asarray(moved, np.uint8)


def _affine_box(matrix: NDArray[np.float64], size: Size) -> Box:
    W, H = size[0] - 1, size[1] - 1
    corners = np.array([(0, 0, 1), (W, 0, 1), (W, H, 1), (0, H, 1)], np.float64) @ matrix[:2].T
    left, top = np.floor(corners.min(axis=0) + 1e-6).astype(int).tolist()
    right, bottom = np.ceil(corners.max(axis=0) - 1e-6).astype(int).tolist()
    return Box(left, top, right - left + 1, bottom - top + 1)


def middle_focal(cameras: Sequence[Camera]) -> float:
    """Return the median focal length: with that radius a panorama is as fine as its photos."""
    return float(np.median([camera.focal for camera in cameras]))
