"""Composition of a panorama: exposure, seams and blending, with one photo in memory at a time."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.imaging import Image
from flowmatch.io.masked import MaskedImage
from flowmatch.progress import ProgressCallback
from flowmatch.stitch.cameras import Camera, Cameras, assign_cameras
from flowmatch.stitch.crop import largest_rectangle
from flowmatch.stitch.options import StitchOptions
from flowmatch.stitch.photos import (
    Photo,
    Size,
    reduce_image,
    reduce_mask,
    scale_for,
    scaled_size,
)
from flowmatch.stitch.project import PROJECTIONS, Box, Projector, Warped, median_focal
from flowmatch.stitch.seams import find_seams

# OpenCV pulls gains towards 1; estimating again on the compensated photos removes the rest.
_GAIN_PASSES = 3
_BLOCK_SHARE = 0.1  # side of OpenCV's blocks, relative to the square root of a photo's area
_MAX_BLOCKS = 2000  # of all photos: OpenCV's matrices have as many rows and columns
# Gains of blocks compensate near seams and leave the rest as it was taken, so one end of a panorama
# may still be brighter because the camera's exposure differed. Gains of whole photos keep equal
# brightness equal, but one end may come out too bright or too dark.
_COMPENSATORS: dict[str, Callable[[int], Any]] = {
    "blocks": lambda side: cv2.detail.BlocksGainCompensator(side, side),
    "gain": lambda side: cv2.detail.GainCompensator(_GAIN_PASSES),
    "channels": lambda side: cv2.detail.ChannelsCompensator(_GAIN_PASSES),
    "channel_blocks": lambda side: cv2.detail.BlocksChannelsCompensator(side, side),
    "none": lambda side: cv2.detail.ExposureCompensator.createDefault(
        cv2.detail.EXPOSURE_COMPENSATOR_NO
    ),
}
_SEAM_MEGAPIXELS = 0.1  # as in OpenCV's Stitcher; the time of seams grows faster than the pixels
_MAX_PIXELS = 500_000_000  # of a panorama; blending takes about 14 bytes per pixel


class Composite(NamedTuple):
    """A panorama before it is cropped.

    Attributes:
        image: ``[H, W, 3]`` uint8, RGB; black outside the photos.
        mask: ``[H, W]`` bool, true inside the photos.
        box: Place of the panorama on its surface.
        radius: Pixels per radian, at the middle.
        projection: Name of the surface.
    """

    image: Image
    mask: NDArray[np.bool_]
    box: Box
    radius: float
    projection: str


class WarpedPhoto(NamedTuple):
    """One photo as it is blended into a panorama, or its part at one edge of a full circle.

    Attributes:
        photo: The photo.
        image: ``[h, w, 3]`` uint8, warped and with compensated exposure.
        mask: ``[h, w]`` uint8, 255 inside the photo.
        seam: ``[h, w]`` uint8, 255 where the panorama shows this photo.
        box: Place in the panorama.
    """

    photo: Photo
    image: Image
    mask: Image
    seam: Image
    box: Box


class _PhotoSet(NamedTuple):
    """Photos of a panorama in the order of composition, with their cameras and sizes."""

    photos: list[Photo]
    cameras: list[Camera]
    sizes: list[Size]

    def scaled(self, scale: float) -> list[Size]:
        """Return the sizes of the photos with their sides times `scale`."""
        return [scaled_size(size, scale) for size in self.sizes]

    def ordered(self, order: Sequence[int]) -> "_PhotoSet":
        return _PhotoSet(
            [self.photos[k] for k in order],
            [self.cameras[k] for k in order],
            [self.sizes[k] for k in order],
        )


def compose(
    photos: Sequence[Photo],
    cameras: Cameras,
    options: StitchOptions,
    *,
    progress: ProgressCallback | None = None,
    on_warped: Callable[[WarpedPhoto], None] | None = None,
    on_size: Callable[[int, int], None] | None = None,
) -> Composite:
    """Compose photos whose cameras are known.

    Each photo is read twice: first reduced, to find exposure and seams, then at its final size, at
    which it is warped, compensated and blended before the next one is read.

    Args:
        photos: As many photos as cameras.
        cameras: Cameras of these photos, or of other photos of the same rig.
        options: How to render.
        progress: Called after each photo of each stage.
        on_warped: Called with each photo before it is blended; twice with one that lies at both
            edges of the panorama.
        on_size: Called, before exposure and seams are estimated, with a width and height that the
            panorama has at least, and has but for a few pixels; it may raise an error.

    Returns:
        The panorama, which does not depend on the order of the photos.

    Raises:
        ValueError: The photos do not fit the cameras, or the panorama is too large.
        OSError: A photo cannot be read.
    """
    projection = cameras.projection if options.projection == "auto" else options.projection
    if projection not in PROJECTIONS:
        known = ", ".join(PROJECTIONS)
        raise ValueError(f"projection must be one of {known}, got {projection!r}")
    seam_megapixels = options.seam_megapixels or _SEAM_MEGAPIXELS
    small, photo_set = _read_small(photos, cameras, seam_megapixels, progress)
    radius = median_focal(photo_set.cameras)
    seam_scale = _common_scale(photo_set, seam_megapixels)
    scale = _common_scale(photo_set, options.megapixels)
    seam_projector = Projector(cameras.motion, projection, radius, seam_scale)
    order = _left_to_right(seam_projector, photo_set, seam_scale)
    photo_set = photo_set.ordered(order)
    straddling = list(
        map(seam_projector.straddles, photo_set.cameras, photo_set.scaled(seam_scale))
    )
    warped = [
        part
        for k, camera, cut in zip(order, photo_set.cameras, straddling, strict=True)
        for part in seam_projector.parts(camera, *small[k], straddles=cut)
    ]
    for _ in range(5):
        projector = Projector(cameras.motion, projection, radius, scale)
        sizes = photo_set.scaled(scale)
        shots = list(zip(photo_set.photos, photo_set.cameras, sizes, straddling, strict=True))
        boxes = [
            box
            for _, camera, size, cut in shots
            for box in projector.boxes(camera, size, straddles=cut)
        ]
        page = _around(boxes)
        expected = _expected_size(boxes, warped, options.crop)
        # The expected size may be short of a few pixels of the small photos.
        longest = max(expected) + options.crop * math.ceil(6 * scale / seam_scale)
        if options.max_side is None or longest <= options.max_side:
            break
        scale *= 0.999 * options.max_side / longest
    margin = _wrap_margin(page, options) if projector.closes(page) else 0
    blender = _blender(Box(page.left - margin, page.top, page.width + 2 * margin, page.height),
                       options)  # fmt: skip
    if on_size:
        on_size(*expected)
    share = max(_BLOCK_SHARE, math.sqrt(len(warped) / _MAX_BLOCKS))
    side = round(share * math.sqrt(small[order[0]].image.shape[0] * small[order[0]].image.shape[1]))
    gains, seams = _gains_and_seams(warped, max(1, side), options)
    part = 0
    for number, (photo, camera, size, cut) in enumerate(shots, 1):
        for box, image, mask in projector.parts(camera, *photo.read_masked(size), straddles=cut):
            image = np.asarray(gains.apply(part, box.corner, image, mask), np.uint8)
            seam = _enlarge_seam(seams[part], mask)
            if on_warped:
                on_warped(WarpedPhoto(photo, image, mask, seam, box))
            for place, columns in _round_the_edges(box, page, margin):
                pixels = np.ascontiguousarray(image[:, columns], np.int16)
                blender.feed(pixels, np.ascontiguousarray(seam[:, columns]), place)
            part += 1
        if progress:
            progress("blending", number, len(photos))
    blended, mask = blender.blend(None, None)
    shown = slice(margin, margin + page.width)
    blended, inside = np.ascontiguousarray(blended[:, shown]), np.asarray(mask)[:, shown] != 0
    image = np.clip(blended, 0, 255, out=blended).astype(np.uint8)
    image[~inside] = 0
    return Composite(image, inside, page, radius * scale, projection)


def _common_scale(photo_set: _PhotoSet, megapixels: float | None) -> float:
    return min(scale_for(size, megapixels) for size in photo_set.sizes)


def _read_small(
    photos: Sequence[Photo],
    cameras: Cameras,
    megapixels: float,
    progress: ProgressCallback | None,
) -> tuple[list[MaskedImage], _PhotoSet]:
    images, sizes = [], []
    for number, photo in enumerate(photos, 1):
        pixels = photo.read_masked()
        size = (pixels.image.shape[1], pixels.image.shape[0])
        sizes.append(size)
        images.append(_reduced(pixels, scaled_size(size, scale_for(size, megapixels))))
        del pixels
        if progress:
            progress("seams", number, len(photos))
    assigned = assign_cameras(cameras, [photo.name for photo in photos], sizes)
    photo_set = _PhotoSet(list(photos), assigned, sizes)
    # Photos of different sizes are reduced by the same factor.
    scale = _common_scale(photo_set, megapixels)
    small = [
        _reduced(image, scaled_size(size, scale)) for image, size in zip(images, sizes, strict=True)
    ]
    return small, photo_set


def _reduced(pixels: MaskedImage, size: Size) -> MaskedImage:
    return MaskedImage(reduce_image(pixels.image, size), reduce_mask(pixels.mask, size))


def _left_to_right(projector: Projector, photo_set: _PhotoSet, scale: float) -> list[int]:
    """Return indices of the photos from left to right, which does not depend on their order."""
    boxes = [
        projector.box(camera, scaled_size(size, scale))
        for camera, size in zip(photo_set.cameras, photo_set.sizes, strict=True)
    ]

    def key(k: int) -> tuple[Any, ...]:
        camera = photo_set.cameras[k]
        return (*boxes[k], camera.focal, camera.matrix.tolist(), camera.name)

    return sorted(range(len(boxes)), key=key)


def _gains_and_seams(
    warped: Sequence[Warped], side: int, options: StitchOptions
) -> tuple[Any, list[Image]]:
    """Estimate gains on small photos, and find seams on the compensated ones."""
    gains = _COMPENSATORS[options.exposure](side)
    umat: Any = cv2.UMat  # Any, because OpenCV's stub lacks the constructor from an array
    gains.feed(
        [photo.box.corner for photo in warped],
        [umat(photo.image) for photo in warped],
        [umat(photo.mask) for photo in warped],
    )
    compensated = [
        photo._replace(image=np.asarray(gains.apply(k, photo.box.corner, photo.image, photo.mask)))
        for k, photo in enumerate(warped)
    ]
    return gains, find_seams(options.seams, compensated)


def _enlarge_seam(seam: Image, mask: Image) -> Image:
    """Return a small seam mask enlarged to the size of a photo's mask, and inside that mask."""
    # Dilated by a pixel, or rounding would leave cracks between photos.
    wider = cv2.dilate(seam, np.ones((3, 3), np.uint8))
    size = (mask.shape[1], mask.shape[0])
    large = cv2.resize(wider, size, interpolation=cv2.INTER_LINEAR_EXACT)
    return np.asarray(cv2.bitwise_and((large > 127).astype(np.uint8) * 255, mask), np.uint8)


def _around(boxes: Sequence[Box]) -> Box:
    """Return the box around boxes."""
    left, top = min(b.left for b in boxes), min(b.top for b in boxes)
    width = max(b.left + b.width for b in boxes) - left
    height = max(b.top + b.height for b in boxes) - top
    return Box(left, top, width, height)


def _expected_size(boxes: Sequence[Box], small: Sequence[Warped], crop: bool) -> Size:
    """Return the width and height of the panorama, or a little less where it is cropped."""
    full = _around(boxes)
    if not crop:
        return full.width, full.height
    page = _around([part.box for part in small])
    mask = np.zeros((page.height, page.width), np.uint8)
    for box, _, inside in small:
        top, left = box.top - page.top, box.left - page.left
        mask[top : top + box.height, left : left + box.width] |= inside
    rectangle = largest_rectangle(mask)
    width = (rectangle.right - rectangle.left - 3) * full.width // page.width
    height = (rectangle.bottom - rectangle.top - 3) * full.height // page.height
    return max(1, width), max(1, height)


def _wrap_margin(page: Box, options: StitchOptions) -> int:
    """Return by how many columns a full circle is continued, so that both edges are blended."""
    band = math.sqrt(page.width * page.height) * options.blend_width / 100
    return 0 if options.blend == "none" else min(math.ceil(2 * band), page.width // 4)


def _round_the_edges(box: Box, page: Box, margin: int) -> Iterator[tuple[tuple[int, int], slice]]:
    """Yield the place of a part and its columns; again where it continues the other edge."""
    yield box.corner, slice(None)
    if margin == 0:
        return
    begin, end = page.left + page.width - margin, page.left + margin
    for shift, first, stop in (
        (-page.width, max(box.left, begin), box.left + box.width),
        (page.width, box.left, min(box.left + box.width, end)),
    ):
        if first < stop:
            yield (first + shift, box.top), slice(first - box.left, stop - box.left)


def _blender(page: Box, options: StitchOptions) -> Any:
    left, top, width, height = page
    if width * height > _MAX_PIXELS:
        raise ValueError(
            f"the panorama would have {width} x {height} pixels, "
            f"more than {_MAX_PIXELS // 10**6} million; choose fewer megapixels per photo"
        )
    band = math.sqrt(width * height) * options.blend_width / 100
    if options.blend == "none" or band < 1:
        blender: Any = cv2.detail.Blender.createDefault(cv2.detail.BLENDER_NO)
    elif options.blend == "multiband":
        blender = cv2.detail.MultiBandBlender()
        blender.setNumBands(max(1, math.ceil(math.log2(band)) - 1))
    else:
        blender = cv2.detail.FeatherBlender(1 / band)
    blender.prepare((left, top, width, height))
    return blender
