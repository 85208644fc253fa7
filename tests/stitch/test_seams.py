"""Seams are searched for where photos overlap."""

import numpy as np
import pytest

from flowmatch.stitch.project import Box, Warped
from flowmatch.stitch.seams import _overlaps, _seam_finder, find_seams


def warped(left, top, mask, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*mask.shape, 3), np.uint8)
    return Warped(Box(left, top, mask.shape[1], mask.shape[0]), image, mask)


@pytest.mark.parametrize("name", ["graphcut", "graphcut_grad"])
def test_same_seams_as_of_whole_boxes(name):
    photos = [warped(x, y, np.full((60, 80), 255, np.uint8), x) for x, y in ((0, 0), (50, 5))]
    ours = find_seams(name, photos)
    images = [photo.image.astype(np.float32) for photo in photos]
    corners = [photo.box.corner for photo in photos]
    theirs = _seam_finder(name).find(images, corners, [photo.mask.copy() for photo in photos])
    for a, b in zip(ours, theirs, strict=True):
        assert (a == b.get()).mean() > 0.99
    assert all((photo.mask == 255).all() for photo in photos)  # not changed


def test_overlaps_are_those_of_masks():
    """A box as wide as the panorama, with pixels at both ends, meets others at the ends only."""
    wide = np.zeros((40, 1000), np.uint8)
    wide[:, :60] = wide[:, 950:] = 255
    narrow = np.full((50, 100), 255, np.uint8)
    a = Box(-500, 0, 1000, 40)
    assert list(_overlaps(a, wide, Box(-450, -5, 100, 50), narrow)) == [Box(-460, -10, 30, 60)]
    assert list(_overlaps(a, wide, Box(0, 0, 100, 50), narrow)) == []
    assert list(_overlaps(a, wide, Box(0, 100, 100, 50), narrow)) == []
    regions = list(_overlaps(a, wide, Box(-520, 0, 1100, 50), np.full((50, 1100), 255, np.uint8)))
    assert sorted(regions) == [Box(-510, -10, 80, 60), Box(440, -10, 70, 60)]


@pytest.mark.parametrize("name", ["graphcut", "dp", "voronoi", "none"])
def test_every_pixel_is_shown(name):
    photos = [warped(x, 0, np.full((40, 60), 255, np.uint8), x) for x in (0, 40, 80)]
    shown = np.zeros((40, 140), int)
    for photo, seam in zip(photos, find_seams(name, photos), strict=True):
        shown[:, photo.box.left : photo.box.left + 60] += seam > 0
    assert shown.min() == 1
    assert name == "none" or (shown == 1).mean() > 0.95
