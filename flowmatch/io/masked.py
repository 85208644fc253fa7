"""Pictures of which a part is not to be seen: transparent pixels, and masks of their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Image, as_gray
from flowmatch.io._files import FilePath
from flowmatch.io.image import IMAGE_SUFFIXES, list_images, read_image, read_rgba

_OPAQUE_FORMATS = (b"\xff\xd8\xff", b"BM", b"P2", b"P3", b"P5", b"P6")  # JPEG, BMP, PNM
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_WITH_ALPHA = (4, 6)  # colour types
_HALF = 127  # alpha above which a pixel belongs to the picture


class MaskedImage(NamedTuple):
    """A picture and the part of it that is neither transparent nor masked.

    Attributes:
        image: ``[H, W, 3]`` uint8, RGB; pixels outside have the colour of the nearest ones inside.
        mask: ``[H, W]`` uint8, 255 inside the picture, 0 where it is transparent or masked; None if
            all of it is inside.
    """

    image: Image
    mask: Image | None


def read_masked(path: FilePath, mask: FilePath | None = None) -> MaskedImage:
    """Read a picture whose transparent or masked pixels are not to be seen.

    They get the colour of the nearest opaque ones: mostly they are stored as black, and the edge
    of what is transparent would be described and matched.

    Args:
        path: File of any format that OpenCV decodes.
        mask: File of a picture of the same size, black where the other is not to be seen.

    Returns:
        The picture as of `read_image`, and its mask.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is damaged, or not a picture, or holds floats, or the mask has another
            size.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "half.png"
        >>> _ = cv2.imwrite(str(path), np.array([[(9, 9, 9, 255), (0, 0, 0, 0)]], np.uint8))
        >>> picture = read_masked(path)
        >>> picture.image[..., 0].tolist(), picture.mask.tolist()
        ([[9, 9]], [[255, 0]])
    """
    image = read_image(path)
    alpha = _read_alpha(Path(path), image)
    picture = MaskedImage(image if alpha is None else fill_outside(image, alpha), alpha)
    if mask is None:
        return picture
    return apply_mask(picture, read_image(mask), name=str(mask), of=Path(path).name)


def apply_mask(picture: MaskedImage, mask: ArrayLike, *, name: str, of: str) -> MaskedImage:
    """Return a picture without what a mask leaves out.

    Args:
        picture: The picture, and the part that its transparency leaves.
        mask: bool or uint8, ``[H, W]`` or ``[H, W, 3]``: black where the picture is not to be seen.
        name: Name of the mask in error messages.
        of: Name of the picture in error messages.

    Raises:
        ValueError: The mask has another size, or is no picture.

    Example:
        >>> picture = MaskedImage(np.full((1, 2, 3), (9, 0, 0), np.uint8), None)
        >>> apply_mask(picture, [[True, False]], name="the mask", of="a.png").mask.tolist()
        [[255, 0]]
    """
    pixels = np.asarray(mask)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    gray, (H, W) = as_gray(pixels, name), picture.image.shape[:2]
    if gray.shape != (H, W):
        raise ValueError(
            f"{name} must have the size of {of}, {W} x {H} pixels, "
            f"got {gray.shape[1]} x {gray.shape[0]}"
        )
    kept = np.where(gray > _HALF, 255, 0).astype(np.uint8)
    if picture.mask is not None:
        kept = np.minimum(kept, picture.mask)
    return MaskedImage(fill_outside(picture.image, kept), kept)


def find_masks(
    images: Sequence[Path], folder: Path, *, root: Path | None = None
) -> list[Path | None]:
    """Return the mask of each image in a folder; None for an image without one.

    The mask of ``a.jpg`` is ``a.jpg.png``, as COLMAP names it, or any picture called ``a``, such
    as ``a.png``.

    Args:
        images: Paths of images.
        folder: Folder of masks.
        root: Folder of the images, whose subfolders the folder of masks has as well; None looks
            for all masks in `folder` itself.

    Raises:
        FileNotFoundError: The folder does not exist, or holds no picture.
        ValueError: No image has a mask, or one has several.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be a folder of masks")
    own = {image.resolve() for image in images}
    by_stem: dict[Path, dict[str, list[Path]]] = {}
    masks: list[Path | None] = []
    for image in images:
        part = root is not None and image.is_relative_to(root)
        place = folder / image.relative_to(root).parent if root and part else folder
        if place not in by_stem:
            needed = root is None  # a subfolder may lack masks
            by_stem[place] = _pictures_by_stem(place, own) if needed or _has_files(place) else {}
        fitting = by_stem[place].get(image.name) or by_stem[place].get(image.stem, [])
        if len(fitting) > 1:
            names = ", ".join(file.name for file in fitting)
            raise ValueError(f"{folder} must hold one mask of {image.name}, got {names}")
        masks.append(fitting[0] if fitting else None)
    if not any(masks):
        raise ValueError(
            f"{folder} has a mask of no photo: that of {images[0].name} would be called "
            f"{images[0].stem}.png"
        )
    return masks


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(
        file.suffix.lower() in IMAGE_SUFFIXES for file in folder.iterdir()
    )


def _pictures_by_stem(folder: Path, without: set[Path]) -> dict[str, list[Path]]:
    by_stem: dict[str, list[Path]] = {}
    for file in list_images(folder):
        if file.resolve() not in without:
            by_stem.setdefault(file.stem, []).append(file)
    return by_stem


def _read_alpha(path: Path, image: Image) -> Image | None:
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
