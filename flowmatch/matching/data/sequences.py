"""Image sequences with known homographies: HPatches, Oxford, and folders laid out like them."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.io import IMAGE_SUFFIXES
from flowmatch.io._files import FilePath, natural_order

# H_1_4 (HPatches), H1to4p (Oxford), and the latter as OpenCV's samples have it.
_HOMOGRAPHY = re.compile(r"H_1_(\d+)|H1to(\d+)p(\.xml|\.txt)?")
_LARGEST = 2**20


class ImagePair(NamedTuple):
    """Two images of one plane.

    Attributes:
        sequence: The folder, relative to that of all; "." for itself.
        first: Path of the first image.
        second: Path of the other.
        homography: Path of the matrix from the first to the other.
    """

    sequence: str
    first: Path
    second: Path
    homography: Path

    @property
    def name(self) -> str:
        """The sequence and the image, for messages."""
        return f"{self.sequence}/{self.second.stem}"

    @property
    def group(self) -> str:
        """HPatches marks its sequences: viewpoint, illumination; else an empty word."""
        prefix = Path(self.sequence).name[:2]
        return {"v_": "viewpoint", "i_": "illumination"}.get(prefix, "")


def find_image_pairs(folder: FilePath) -> list[ImagePair]:
    """Find the pairs of images with a known homography below a folder.

    A sequence is a folder with images whose names end in a number, 1 being the first, and for each
    of the others ``H_1_k``, ``H1tokp`` or ``H1tokp.xml``.

    Args:
        folder: One sequence, or a folder of sequences.

    Returns:
        Pairs, in the order of their names.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There is no pair in it, or an image of a pair is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    pairs = []
    places = {f.parent for f in folder.rglob("H*1*") if _HOMOGRAPHY.fullmatch(f.name)}
    for place in sorted(places, key=natural_order):
        images = _numbered_images(place)
        for file in sorted(place.iterdir(), key=natural_order):
            found = _HOMOGRAPHY.fullmatch(file.name)
            if found is None:
                continue
            number = int(found[1] or found[2])
            missing = [k for k in (1, number) if k not in images]
            if missing:
                raise ValueError(f"{file}: there is no image {missing[0]} beside it")
            sequence = place.relative_to(folder).as_posix()
            pairs.append(ImagePair(sequence, images[1], images[number], file))
    if not pairs:
        raise ValueError(
            f"{folder}: expected sequences with images 1, 2, ... and homographies H_1_2 or H1to2p, "
            "got none"
        )
    return pairs


def _numbered_images(folder: Path) -> dict[int, Path]:
    images = {}
    for file in folder.iterdir():
        number = re.search(r"(\d+)$", file.stem)
        if number and file.suffix.lower() in IMAGE_SUFFIXES:
            images[int(number[1])] = file
    return images


def read_homography(path: FilePath) -> NDArray[np.float64]:
    """Read a homography: nine numbers as text, or a matrix of OpenCV's ``.xml``.

    Returns:
        ``[3, 3]``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no homography.
    """
    path = Path(path)
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path}: expected nine numbers, got {path.stat().st_size} bytes")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".xml":
            mode = cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY
            storage = cv2.FileStorage(text, mode)  # has to outlive its nodes
            matrix = storage.getFirstTopLevelNode().mat()
        else:
            matrix = np.array(text.replace(",", " ").split(), np.float64).reshape(3, 3)
    except (ValueError, cv2.error, SystemError) as error:
        raise ValueError(f"{path}: expected a homography of nine numbers: {error}") from error
    numbers = np.asarray(matrix, np.float64) if matrix is not None else np.empty(0)
    if numbers.shape != (3, 3) or not np.isfinite(numbers).all() or not np.linalg.det(numbers):
        raise ValueError(
            f"{path}: expected an invertible homography [3, 3], got {numbers.tolist()}"
        )
    return numbers
