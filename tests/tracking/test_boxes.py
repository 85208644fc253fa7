"""Boxes: checks, overlap, and the crops around them."""

import numpy as np
import pytest

from flowmatch.tracking.boxes import (
    Region,
    box_iou,
    check_boxes,
    crop_region,
    decode_box,
    encode_box,
    inside_share,
    region_around,
)


@pytest.mark.parametrize(
    "boxes, message",
    [
        ((10, 10, np.nan, 20), "a box must be four finite numbers, got 10,10,nan,20"),
        ((10, 10, 3, 20), "a box must be at least 4 pixels to a side"),
        ((10, 10, -20, 20), "a box must be at least 4 pixels"),
        ((90, 10, 20, 20), "a box must lie in the frame of 100 x 60 pixels, got 90,10,20,20"),
        ((-1, 10, 20, 20), "a box must lie in the frame"),
        ((1, 2, 3), r"boxes must be \[N, 4\]"),
        ([], r"boxes must be \[N, 4\]"),
        ("abcd", "boxes must be numbers"),
    ],
)
def test_bad_boxes_raise(boxes, message):
    with pytest.raises(ValueError, match=message):
        check_boxes(boxes, (60, 100))


def test_overlap():
    whole = (0, 0, 10, 10)
    others = [whole, (5, 0, 10, 10), (10, 0, 5, 5), (2, 2, 5, 4), (np.nan, 0, 1, 1)]
    np.testing.assert_allclose(box_iou(whole, others), [1, 1 / 3, 0, 0.2, np.nan])
    shares = inside_share([(-5, 0, 10, 10), (0, 0, 30, 30), (40, 0, 5, 5)], (20, 30))
    np.testing.assert_allclose(shares, [0.5, 2 / 3, 0])


def test_codes_are_relative_to_the_region_and_return():
    rng = np.random.default_rng(0)
    for _ in range(20):
        earlier, box = (np.array([*rng.uniform(0, 50, 2), *rng.uniform(8, 60, 2)]) for _ in "ab")
        region = region_around(earlier)
        assert abs(region.right - region.left - 2 * earlier[2]) <= 0.5
        np.testing.assert_allclose(decode_box(encode_box(box, region), region), box, atol=1e-4)
    np.testing.assert_allclose(encode_box((10, 10, 8, 4), region_around((10, 10, 8, 4))), 0)


def test_a_crop_shows_its_region_and_repeats_the_border():
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[4:12, 6:14] = 255
    picture[:, 0] = 99
    crop = crop_region(picture, Region(2, 0, 18, 16), 8)
    assert (crop[2:6, 2:6] == 255).all() and crop.astype(int).sum() == 16 * 3 * 255
    assert (crop_region(picture, Region(-8, 0, 0, 8), 8) == 99).all()
