"""Pictures with transparent pixels: alpha is a mask."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Image
from flowmatch.io._files import FilePath
from flowmatch.io.image import read_image, read_rgba

_OPAQUE_FORMATS = (b"\xff\xd8\xff", b"BM", b"P2", b"P3", b"P5", b"P6")  # JPEG, BMP, PNM
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_WITH_ALPHA = (4, 6)  # colour types
_HALF = 127  # alpha above which a pixel belongs to the picture


class MaskedImage(NamedTuple):
    """A picture and the part of it that is not transparent.

    Attributes:
        image: ``[H, W, 3]`` uint8, RGB; transparent pixels have the colour of the nearest others.
        mask: ``[H, W]`` uint8, 255 inside the picture, 0 where it is transparent; None if it is
            transparent nowhere.
    """

    image: Image
    mask: Image | None


def read_masked(path: FilePath) -> MaskedImage:
    """Read a picture whose transparent pixels are not to be seen.

    They get the colour of the nearest opaque ones: mostly they are stored as black, and the edge
    of what is transparent would be described and matched.

    Args:
        path: File of any format that OpenCV decodes.

    Returns:
        The picture as of `read_image`, and its mask.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or not a picture, or holds floats.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "half.png"
        >>> _ = cv2.imwrite(str(path), np.array([[(9, 9, 9, 255), (0, 0, 0, 0)]], np.uint8))
        >>> picture = read_masked(path)
        >>> picture.image[..., 0].tolist(), picture.mask.tolist()
        ([[9, 9]], [[255, 0]])
    """
    image = read_image(path)
    mask = _read_mask(Path(path), image)
    return MaskedImage(image if mask is None else fill_outside(image, mask), mask)


def _read_mask(path: Path, image: Image) -> Image | None:
    """Return where a file is not transparent, 255 or 0; None if it is transparent nowhere.

    Args:
        path: File of a picture.
        image: The same picture from `read_image`.
    """
    with path.open("rb") as file:
        head = file.read(2**16)
    if head.startswith(_OPAQUE_FORMATS):
        return None
    if head.startswith(_PNG) and head[25] not in _PNG_WITH_ALPHA and b"tRNS" not in head:
        return None
    rgba = read_rgba(path)
    if rgba[..., 3].min() > _HALF:
        return None
    return (_turned_like(rgba, image)[..., 3] > _HALF).astype(np.uint8) * 255


def _turned_like(rgba: NDArray[np.uint8], image: Image) -> NDArray[np.uint8]:
    """Return a picture with the orientation of `image`: `read_rgba` ignores that in EXIF.

    Raises:
        ValueError: It has the size of the image in no orientation.
    """
    turned = [
        np.rot90(flipped, quarters) for flipped in (rgba, rgba[:, ::-1]) for quarters in range(4)
    ]
    fitting = [picture for picture in turned if picture.shape[:2] == image.shape[:2]]
    for picture in fitting:
        opaque = picture[..., 3] == 255
        if (picture[opaque][:, :3] == image[opaque]).all():
            return picture
    if not fitting:
        raise ValueError(f"its alpha is {rgba.shape[1]} x {rgba.shape[0]}, unlike its colours")
    return fitting[0]


def fill_outside(image: Image, mask: Image) -> Image:
    """Return an image whose pixels outside the mask have the colour of the nearest one inside.

    Args:
        image: ``[H, W, 3]`` uint8.
        mask: ``[H, W]`` uint8, 255 inside, 0 outside.

    Example:
        >>> image = np.full((1, 2, 3), (9, 0, 0), np.uint8)
        >>> image[0, 1] = 77
        >>> fill_outside(image, np.array([[255, 0]], np.uint8))[0, 1].tolist()
        [9, 0, 0]
    """
    inside = mask > 0
    if not inside.any():
        return np.zeros_like(image)
    _, labels = cv2.distanceTransformWithLabels(
        255 - mask, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = np.zeros((int(labels.max()) + 1, 3), np.uint8)
    colours[labels[inside]] = image[inside]
    filled = image.copy()
    filled[~inside] = colours[labels[~inside]]
    return filled
