"""From cameras to one picture: exposure, seams, blending; one photo in memory at a time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.stitch.cameras import Camera, Cameras, assign
from flowmatch.stitch.matching import Progress
from flowmatch.stitch.photos import Image, Photo, Size, scale_for, scaled_size, shrunk
from flowmatch.stitch.project import PROJECTIONS, Box, Projector, middle_focal

# OpenCV's gains are drawn towards 1; feeding what is evened out again takes what is left.
_FEEDS = 3
_BLOCK_SHARE = 0.1  # of the root of a photo's area: the side of OpenCV's blocks
# Gains of blocks even out what is near seams and leave the rest as it was taken, so that a camera's
# own exposure may still show the sunny and the shady end of a panorama. Those of whole photos
# keep what is equally bright equal, and let one end be too bright or too dark.
_EXPOSURES: dict[str, Callable[[int], Any]] = {
    "blocks": lambda side: cv2.detail.BlocksGainCompensator(side, side),
    "gain": lambda side: cv2.detail.GainCompensator(_FEEDS),
    "channels": lambda side: cv2.detail.ChannelsCompensator(_FEEDS),
    "channel_blocks": lambda side: cv2.detail.BlocksChannelsCompensator(side, side),
    "none": lambda side: cv2.detail.ExposureCompensator.createDefault(
        cv2.detail.EXPOSURE_COMPENSATOR_NO
    ),
}
_SEAMS = ("graphcut", "graphcut_grad", "dp", "dp_grad", "voronoi", "none")
_BLENDS = ("multiband", "feather", "none")
CHOICES = {
    "projection": ("auto", *PROJECTIONS),
    "exposure": tuple(_EXPOSURES),
    "seams": _SEAMS,
    "blend": _BLENDS,
}
_MOST_PIXELS = 500_000_000  # of a panorama: its blender takes some 14 bytes for each


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a panorama is put together.

    Args:
        projection: ``"auto"`` (what the cameras were saved with; a sphere, for scans a plane) or
            a name in `PROJECTIONS`.
        exposure: What evens out brightness: ``"blocks"`` (a gain for each block, a tenth of a
            photo wide: near seams only), ``"gain"`` (one for each photo), ``"channels"``,
            ``"channel_blocks"`` (also white balance), ``"none"``.
        seams: Where one photo ends and the next begins: ``"graphcut"`` or ``"dp"`` (dynamic
            programming), by colour or, with ``"_grad"``, also by gradients; ``"voronoi"``,
            ``"none"``.
        blend: ``"multiband"``, ``"feather"`` or ``"none"``.
        strength: Width of the blended band, percent of the root of the panorama's area.
        crop: Whether to cut out the largest rectangle without a hole.
        megapixels: Of each photo in the panorama; None takes them as they are.
        seam_megapixels: Of each photo where exposure and seams are found; None takes 0.3, less for
            more than ten photos.

    Raises:
        ValueError: There is no such choice, or a number is out of range.
    """

    projection: str = "auto"
    exposure: str = "blocks"
    seams: str = "graphcut"
    blend: str = "multiband"
    strength: float = 5.0
    crop: bool = True
    megapixels: float | None = None
    seam_megapixels: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in CHOICES and value not in CHOICES[field.name]:
                known = ", ".join(CHOICES[field.name])
                raise ValueError(f"{field.name} must be one of {known}, got {value!r}")
        for name in ("megapixels", "seam_megapixels"):
            number = getattr(self, name)
            if number is not None and not 0 < number < math.inf:
                raise ValueError(f"{name} must be positive, got {number}")
        if not 0 <= self.strength <= 100:
            raise ValueError(f"strength must be a percentage, got {self.strength}")


class Composite(NamedTuple):
    """A panorama before it is cropped.

    Attributes:
        image: ``[H, W, 3]`` uint8, RGB; black where there is nothing.
        mask: ``[H, W]`` bool, where there is something.
    """

    image: Image
    mask: NDArray[np.bool_]


class Witness(Protocol):
    """Somebody who wants to see the stages of a composition."""

    def warped(self, name: str, image: Image, mask: Image, seam: Image, box: Box) -> None:
        """See one photo as it is given to the blender."""


class _Stage(NamedTuple):
    """The photos of a panorama, in the order in which they are put together."""

    photos: list[Photo]
    cameras: list[Camera]
    sizes: list[Size]

    def ordered(self, order: Sequence[int]) -> "_Stage":
        photos, cameras, sizes = ([some[k] for k in order] for some in self)
        return _Stage(photos, cameras, sizes)  # type: ignore[arg-type]  # each is of its own type


def compose(
    photos: Sequence[Photo],
    cameras: Cameras,
    style: Style,
    *,
    progress: Progress | None = None,
    witness: Witness | None = None,
) -> Composite:
    """Put photos together with known cameras.

    Each is read twice: small, where exposure and seams are found, and at its final size, where it
    is warped, corrected and blended before the next is read.

    Args:
        photos: As many as cameras.
        cameras: Of these photos or of others of the same rig.
        style: How.
        progress: Called with the stage, what is done, and of how many.
        witness: Is shown each photo before it is blended.

    Returns:
        The panorama; it does not depend on the order of the photos.

    Raises:
        ValueError: The photos do not fit the cameras, or the panorama is too large.
        OSError: A photo cannot be read.
    """
    projection = cameras.projection if style.projection == "auto" else style.projection
    if projection not in PROJECTIONS:
        known = ", ".join(PROJECTIONS)
        raise ValueError(f"projection must be one of {known}, got {projection!r}")
    seam_megapixels = style.seam_megapixels or _seam_megapixels(len(photos))
    small, stage = _read_small(photos, cameras, seam_megapixels, progress)
    radius = middle_focal(stage.cameras)
    seam_scale = _scale(stage, seam_megapixels)
    scale = _scale(stage, style.megapixels)
    low = Projector(cameras.model, projection, radius, seam_scale)
    final = Projector(cameras.model, projection, radius, scale)
    order = _order(low, stage, seam_scale)
    stage = stage.ordered(order)
    boxes = [
        final.box(camera, scaled_size(size, scale))
        for camera, size in zip(stage.cameras, stage.sizes, strict=True)
    ]
    blender = _blender(boxes, style)
    gains, seams = _gains_and_seams(low, stage, [small[k] for k in order], style)
    for number, (photo, camera, size) in enumerate(zip(*stage, strict=True)):
        if progress:
            progress("blending", number, len(photos))
        box, image, mask = final.warp(camera, photo.read(scaled_size(size, scale)))
        image = np.asarray(gains.apply(number, box.corner, image, mask), np.uint8)
        seam = _enlarged(seams[number], mask)
        if witness:
            witness.warped(photo.name, image, mask, seam, box)
        blender.feed(image.astype(np.int16), seam, box.corner)
    blended, mask = blender.blend(None, None)
    inside = np.asarray(mask) != 0
    image = np.clip(blended, 0, 255, out=blended).astype(np.uint8)
    image[~inside] = 0
    return Composite(image, inside)


def _seam_megapixels(photos: int) -> float:
    """Return how finely seams are looked for: time grows faster than the number of pixels."""
    return max(0.1, min(0.3, 3 / photos))


def _scale(stage: _Stage, megapixels: float | None) -> float:
    return min(scale_for(size, megapixels) for size in stage.sizes)


def _read_small(
    photos: Sequence[Photo], cameras: Cameras, megapixels: float, progress: Progress | None
) -> tuple[list[Image], _Stage]:
    images, sizes = [], []
    for number, photo in enumerate(photos):
        if progress:
            progress("seams", number, len(photos))
        image = photo.read()
        size = (image.shape[1], image.shape[0])
        sizes.append(size)
        images.append(shrunk(image, scaled_size(size, scale_for(size, megapixels))))
        del image
    fitting = assign(cameras, [photo.name for photo in photos], sizes)
    stage = _Stage(list(photos), fitting, sizes)
    common = _scale(stage, megapixels)
    # Photos of different sizes have to be reduced alike.
    small = [
        shrunk(image, scaled_size(size, common)) for image, size in zip(images, sizes, strict=True)
    ]
    return small, stage


def _order(projector: Projector, stage: _Stage, scale: float) -> list[int]:
    """Return the photos from left to right, whatever order they came in."""
    boxes = [
        projector.box(camera, scaled_size(size, scale))
        for camera, size in zip(stage.cameras, stage.sizes, strict=True)
    ]

    def key(k: int) -> tuple[Any, ...]:
        camera = stage.cameras[k]
        return (*boxes[k], camera.focal, camera.matrix.tolist(), camera.name)

    return sorted(range(len(boxes)), key=key)


def _gains_and_seams(
    projector: Projector, stage: _Stage, small: Sequence[Image], style: Style
) -> tuple[Any, list[Image]]:
    """Find gains and seams on small photos: the gains first, the seams on what they even out."""
    warped = [
        projector.warp(camera, image) for camera, image in zip(stage.cameras, small, strict=True)
    ]
    corners = [box.corner for box, _, _ in warped]
    images = [image for _, image, _ in warped]
    masks = [mask for _, _, mask in warped]
    side = round(_BLOCK_SHARE * math.sqrt(small[0].shape[0] * small[0].shape[1]))
    gains = _EXPOSURES[style.exposure](max(1, side))
    unified: Any = cv2.UMat  # the stub does not know that it takes an array
    gains.feed(corners, [unified(i) for i in images], [unified(m) for m in masks])
    evened = [
        np.asarray(gains.apply(k, *three), np.float32)
        for k, three in enumerate(zip(corners, images, masks, strict=True))
    ]
    found = _seam_finder(style.seams).find(evened, corners, [mask.copy() for mask in masks])
    seams = [np.asarray(m.get() if isinstance(m, cv2.UMat) else m, np.uint8) for m in found]
    return gains, seams


def _seam_finder(name: str) -> Any:
    if name.startswith("graphcut"):
        return cv2.detail.GraphCutSeamFinder("COST_COLOR_GRAD" if "grad" in name else "COST_COLOR")
    if name.startswith("dp"):
        return cv2.detail.DpSeamFinder("COLOR_GRAD" if "grad" in name else "COLOR")
    kind = cv2.detail.SEAM_FINDER_VORONOI_SEAM if name == "voronoi" else cv2.detail.SEAM_FINDER_NO
    return cv2.detail.SeamFinder.createDefault(kind)


def _enlarged(seam: Image, mask: Image) -> Image:
    """Return a small seam mask at the size of a photo, inside its own mask."""
    # A little further than found, or rounding would leave cracks between photos.
    wider = cv2.dilate(seam, np.ones((3, 3), np.uint8))
    size = (mask.shape[1], mask.shape[0])
    large = cv2.resize(wider, size, interpolation=cv2.INTER_LINEAR_EXACT)
    return np.asarray(cv2.bitwise_and((large > 127).astype(np.uint8) * 255, mask), np.uint8)


def _blender(boxes: Sequence[Box], style: Style) -> Any:
    left, top = min(b.left for b in boxes), min(b.top for b in boxes)
    width = max(b.left + b.width for b in boxes) - left
    height = max(b.top + b.height for b in boxes) - top
    if width * height > _MOST_PIXELS:
        raise ValueError(
            f"the panorama would have {width} x {height} pixels, "
            f"{_MOST_PIXELS // 10**6} million are the most; ask for fewer megapixels of each photo"
        )
    band = math.sqrt(width * height) * style.strength / 100
    if style.blend == "none" or band < 1:
        blender: Any = cv2.detail.Blender.createDefault(cv2.detail.BLENDER_NO)
    elif style.blend == "multiband":
        blender = cv2.detail.MultiBandBlender()
        blender.setNumBands(max(1, math.ceil(math.log2(band)) - 1))
    else:
        blender = cv2.detail.FeatherBlender(1 / band)
    blender.prepare((left, top, width, height))
    return blender
