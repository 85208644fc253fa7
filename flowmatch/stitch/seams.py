"""Seams between warped photos."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from flowmatch._opencv import cv2
from flowmatch.imaging import Image
from flowmatch.stitch.project import Box, Warped

_MARGIN = 10  # pixels around an overlap, as many as OpenCV's graph cut adds itself


def find_seams(name: str, warped: Sequence[Warped]) -> list[Image]:
    """Find the part of the panorama that each photo covers.

    Graph cut is solved where two photos overlap, not over the common part of their boxes: that of
    a photo over a pole is as wide as the panorama, and almost empty.

    Args:
        name: Method, see `StitchOptions`.
        warped: Photos with compensated exposure.

    Returns:
        Masks of the size of the photos, 255 where a photo is shown.
    """
    masks = [photo.mask.copy() for photo in warped]
    if name.startswith("graphcut"):
        for first, second in combinations(range(len(warped)), 2):
            a, b = warped[first], warped[second]
            for region in _overlaps(a.box, masks[first], b.box, masks[second]):
                _cut(name, [a, b], [masks[first], masks[second]], region)
        return masks
    images = [photo.image.astype(np.float32) for photo in warped]
    cuts = _seam_finder(name).find(images, [photo.box.corner for photo in warped], masks)
    return [np.asarray(m.get() if isinstance(m, cv2.UMat) else m, np.uint8) for m in cuts]


def _overlaps(a: Box, mask_a: Image, b: Box, mask_b: Image) -> Iterator[Box]:
    """Yield boxes around the parts of the panorama that two photos share, with a margin."""
    common = _intersect(a, b)
    if common.width <= 0 or common.height <= 0:
        return
    both = cv2.bitwise_and(mask_a[_slices(a, common)], mask_b[_slices(b, common)])
    # Parts whose margins touch are one.
    square = np.ones((2 * _MARGIN + 1, 2 * _MARGIN + 1), np.uint8)
    padded = np.pad(np.asarray(both, np.uint8), _MARGIN)
    _, _, places, _ = cv2.connectedComponentsWithStats(cv2.dilate(padded, square))
    for left, top, width, height, _ in places[1:].tolist():
        yield Box(common.left + left - _MARGIN, common.top + top - _MARGIN, width, height)


def _cut(name: str, photos: Sequence[Warped], masks: Sequence[Image], region: Box) -> None:
    """Divide a region between two photos, in place."""
    boxes = [_intersect(photo.box, region) for photo in photos]
    places = [_slices(photo.box, box) for photo, box in zip(photos, boxes, strict=True)]
    images = [
        photo.image[place].astype(np.float32) for photo, place in zip(photos, places, strict=True)
    ]
    parts = [mask[place].copy() for mask, place in zip(masks, places, strict=True)]
    cuts = _seam_finder(name).find(images, [box.corner for box in boxes], parts)
    for mask, place, part in zip(masks, places, cuts, strict=True):
        mask[place] = part.get() if isinstance(part, cv2.UMat) else part


def _intersect(a: Box, b: Box) -> Box:
    left, top = max(a.left, b.left), max(a.top, b.top)
    right = min(a.left + a.width, b.left + b.width)
    bottom = min(a.top + a.height, b.top + b.height)
    return Box(left, top, right - left, bottom - top)


def _slices(box: Box, part: Box) -> tuple[slice, slice]:
    """Return rows and columns of a part within the pixels of a box."""
    top, left = part.top - box.top, part.left - box.left
    return slice(top, top + part.height), slice(left, left + part.width)


def _seam_finder(name: str) -> Any:
    if name.startswith("graphcut"):
        return cv2.detail.GraphCutSeamFinder("COST_COLOR_GRAD" if "grad" in name else "COST_COLOR")
    if name.startswith("dp"):
        return cv2.detail.DpSeamFinder("COLOR_GRAD" if "grad" in name else "COLOR")
    kind = cv2.detail.SEAM_FINDER_VORONOI_SEAM if name == "voronoi" else cv2.detail.SEAM_FINDER_NO
    return cv2.detail.SeamFinder.createDefault(kind)
