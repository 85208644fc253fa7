"""Image sequences with known homographies: HPatches, Oxford, and folders of the same layout."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.io._files import FilePath, natural_order, reason_of
from flowmatch.io.image import READ_SUFFIXES

# H_1_4 (HPatches), H1to4p (Oxford), H1to4p.xml (the samples of OpenCV).
_HOMOGRAPHY = re.compile(r"H_1_(\d+)|H1to(\d+)p(\.xml|\.txt)?")
_MAX_BYTES = 2**20
# A matrix as cv2.FileStorage writes it.
_XML_MATRIX = re.compile(
    r"<rows>\s*3\s*</rows>\s*<cols>\s*3\s*</cols>\s*<dt>\s*[fd]\s*</dt>\s*<data>([^<]*)</data>"
)


class ImagePair(NamedTuple):
    """Two images of one plane.

    Attributes:
        sequence: Path of the sequence, relative to the folder of all sequences.
        first: Path of the first image.
        second: Path of the second image.
        homography: Path of the homography from the first image to the second.
    """

    sequence: str
    first: Path
    second: Path
    homography: Path

    @property
    def name(self) -> str:
        """Sequence and second image, for messages."""
        return f"{self.sequence}/{self.second.stem}"

    @property
    def group(self) -> str:
        """Group of an HPatches sequence: viewpoint or illumination; empty for others."""
        prefix = Path(self.sequence).name[:2]
        return {"v_": "viewpoint", "i_": "illumination"}.get(prefix, "")


def find_image_pairs(folder: FilePath) -> list[ImagePair]:
    """Find pairs of images with a known homography in a folder.

    A sequence is a folder of images whose names end in a number, the first being 1, with a file
    ``H_1_k``, ``H1tokp`` or ``H1tokp.xml`` for each other image k.

    Args:
        folder: One sequence, or a folder of sequences.

    Returns:
        Pairs, sorted by name.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The folder holds no pair, or an image of a pair is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    pairs = []
    parents = {f.parent for f in folder.rglob("H*1*") if _HOMOGRAPHY.fullmatch(f.name)}
    for parent in sorted(parents, key=natural_order):
        images = _numbered_images(parent)
        for file in sorted(parent.iterdir(), key=natural_order):
            match = _HOMOGRAPHY.fullmatch(file.name)
            if match is None:
                continue
            number = int(match[1] or match[2])
            missing = [k for k in (1, number) if k not in images]
            if missing:
                raise ValueError(f"{file}: image {missing[0]} is missing in the same folder")
            sequence = parent.relative_to(folder).as_posix()
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
        hidden = file.name.startswith(".")
        if number and not hidden and file.suffix.lower() in READ_SUFFIXES:
            images[int(number[1])] = file
    return images


def read_homography(path: FilePath) -> NDArray[np.float64]:
    """Read a homography ``[3, 3]``: nine numbers as text, or a matrix in OpenCV's ``.xml``.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file holds no homography.
    """
    path = Path(path)
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: expected nine numbers, got {path.stat().st_size} bytes")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".xml":  # cv2.FileStorage allocates what the file claims
            matrix = _XML_MATRIX.search(text)
            text = matrix[1] if matrix else ""
        numbers = np.array(text.replace(",", " ").split(), np.float64).reshape(3, 3)
    except ValueError as error:
        raise ValueError(
            f"{path}: expected a homography of nine numbers: {reason_of(error)}"
        ) from error
    with np.errstate(all="ignore"):  # products of large numbers
        determinant = np.linalg.det(numbers)
    if not np.isfinite(determinant) or not determinant:
        raise ValueError(
            f"{path}: expected an invertible homography [3, 3], got {numbers.tolist()}"
        )
    return numbers
