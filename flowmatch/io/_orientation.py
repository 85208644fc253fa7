"""Pixels as a file stores them: without the orientation in EXIF, which `read_image` applies."""

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.io._claims import check_claim
from flowmatch.io._files import FilePath, existing_file
from flowmatch.io._quiet import quiet_stderr


class Orientation(NamedTuple):
    """Map from the pixels that `read_image` returns to those that a file stores.

    Attributes:
        linear: ``[2, 2]``, rotation or reflection.
        shift: ``[2]``, pixels.
        size: Width and height of the stored picture.
    """

    linear: NDArray[np.float64]
    shift: NDArray[np.float64]
    size: tuple[int, int]

    def points(self, xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return where points ``[N, 2]`` are in the stored picture."""
        return np.asarray(xy @ self.linear.T + self.shift, np.float32)

    def angles(self, angle: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the directions of angles in radians, ``[N]``, in the stored picture."""
        x, y = self.linear @ np.stack([np.cos(angle), np.sin(angle)])
        return np.asarray(np.arctan2(y, x), np.float32)


def read_orientation(path: FilePath) -> Orientation:
    """Find how a picture was turned or mirrored when it was read.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file cannot be decoded.
    """
    path = existing_file(path)
    encoded = np.fromfile(path, np.uint8)
    check_claim(path, encoded.data)
    try:
        with quiet_stderr():
            shown = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
            stored = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # also for an empty file
        shown = stored = None
    if shown is None or stored is None:
        raise ValueError(f"{path} is damaged, or not an image of a kind that OpenCV decodes")
    H, W = stored.shape
    for transposed, across, down in product((False, True), repeat=3):
        turned = stored[:: -1 if down else 1, :: -1 if across else 1]
        if np.array_equal(turned.T if transposed else turned, shown):
            signs = np.array([-1.0 if across else 1.0, -1.0 if down else 1.0])
            axes = np.eye(2)[::-1] if transposed else np.eye(2)
            shift = np.where(signs < 0, np.array([W - 1.0, H - 1.0]), 0)
            return Orientation(signs[:, None] * axes, shift, (W, H))
    raise ValueError(f"{path}: its orientation cannot be told from its pixels")
