"""Composition of crops of a picture: the panorama is the picture."""

import numpy as np
import pytest

from flowmatch.stitch import StitchOptions
from flowmatch.stitch.cameras import Camera, Cameras
from flowmatch.stitch.compose import compose
from flowmatch.stitch.photos import open_photos

from .conftest import turn
from .world import World

PLAIN = StitchOptions(exposure="none", seams="voronoi", blend="none")
OFFSETS = [(0, 0), (70, 10), (130, 0)]  # x, y of the crops


@pytest.fixture(scope="module")
def picture(scene):
    return np.ascontiguousarray(scene[100:260, 100:360])


@pytest.fixture(scope="module")
def crops(picture):
    return open_photos([picture[y : y + 150, x : x + 130] for x, y in OFFSETS])


def cameras_at(offsets, projection="plane"):
    cameras = [
        Camera(
            f"photo {k}",
            (130, 150),
            1.0,
            1.0,
            (0.0, 0.0),
            np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]]),
        )
        for k, (x, y) in enumerate(offsets, 1)
    ]
    return Cameras("affine", projection, tuple(cameras), 0.0)


CAMERAS = cameras_at(OFFSETS)


def covered():
    mask = np.zeros((160, 260), bool)
    for x, y in OFFSETS:
        mask[y : y + 150, x : x + 130] = True
    return mask


def test_pixels_are_those_of_the_photos(picture, crops):
    image, mask, *_ = compose(crops, CAMERAS, PLAIN)
    np.testing.assert_array_equal(mask, covered())
    np.testing.assert_array_equal(image, np.where(covered()[..., None], picture, 0))


@pytest.mark.parametrize("blend", ["multiband", "feather"])
@pytest.mark.parametrize("exposure", ["blocks", "gain", "channels", "channel_blocks"])
def test_blending_of_equal_photos_changes_little(picture, crops, blend, exposure):
    image, mask, *_ = compose(crops, CAMERAS, StitchOptions(exposure=exposure, blend=blend))
    np.testing.assert_array_equal(mask, covered())
    difference = np.abs(image.astype(int) - picture)[mask]
    assert difference.mean() < 2 and np.quantile(difference, 0.99) < 10


def test_order_does_not_matter(crops):
    image, *_ = compose(crops, CAMERAS, StitchOptions())
    order = [2, 0, 1]
    shuffled = CAMERAS._replace(cameras=tuple(CAMERAS.cameras[k] for k in order))
    again, *_ = compose([crops[k] for k in order], shuffled, StitchOptions())
    np.testing.assert_array_equal(again, image)


def test_warped_photos_and_progress(picture, crops):
    warped, calls = [], []
    order = [2, 0, 1]
    shuffled = CAMERAS._replace(cameras=tuple(CAMERAS.cameras[k] for k in order))
    compose(
        [crops[k] for k in order], shuffled, PLAIN,
        progress=lambda *call: calls.append(call), on_warped=warped.append,
    )  # fmt: skip
    assert calls == [(stage, k, 3) for stage in ("seams", "blending") for k in (1, 2, 3)]
    # From left to right, whatever the order.
    assert [item.photo.number for item in warped] == [0, 1, 2]
    shown = np.zeros((160, 260), int)
    for item, (x, y) in zip(warped, OFFSETS, strict=True):
        assert item.box == (x, y, 130, 150)
        np.testing.assert_array_equal(item.image, picture[y : y + 150, x : x + 130])
        assert (item.mask == 255).all()
        shown[y : y + 150, x : x + 130] += item.seam > 0
    assert (shown >= covered()).all() and (shown[covered()] == 1).mean() > 0.9


def test_a_circle_costs_as_much_as_its_photos():
    """No photo of a full circle is warped to a box as wide as the panorama."""
    true = [turn(yaw + 10, -8) for yaw in range(0, 360, 30)]
    photos = World(512, 1500).photos(true, 60, (120, 90))
    focal = 60 / np.tan(np.radians(30))
    cameras = [
        Camera(f"photo {k}", (120, 90), focal, 1.0, (59.5, 44.5), R) for k, R in enumerate(true, 1)
    ]
    areas = {}
    for name, chosen in (("circle", slice(None)), ("open", slice(7, 17))):
        these = [(photos * 2)[k] for k in range(12)] if name == "circle" else (photos * 2)[chosen]
        theirs = tuple(cameras if name == "circle" else (cameras * 2)[chosen])
        warped = []
        image, mask, *_ = compose(
            open_photos(these), Cameras("rotation", "spherical", theirs, 0.0),
            StitchOptions(), on_warped=warped.append,
        )  # fmt: skip
        areas[name] = sum(item.box.width * item.box.height for item in warped) / len(these)
        assert max(item.box.width for item in warped) < image.shape[1] / 4
        if name == "circle":
            assert len(warped) in (13, 14) and len({item.photo.number for item in warped}) == 12
            assert image.shape[1] == pytest.approx(2 * np.pi * focal, abs=2)
            assert mask[15:-15].all()
    assert areas["circle"] < 1.3 * areas["open"]


def test_reduced_photos(crops):
    options = StitchOptions(exposure="none", seams="voronoi", blend="none", megapixels=0.005)
    image, *_ = compose(crops, CAMERAS, options)
    scale = (0.005e6 / (130 * 150)) ** 0.5
    assert image.shape[1] == pytest.approx(260 * scale, abs=2)
    assert image.shape[0] == pytest.approx(160 * scale, abs=2)


def test_errors(crops):
    with pytest.raises(ValueError, match="projection must be one of plane, .* got 'cube'"):
        compose(crops, CAMERAS._replace(projection="cube"), PLAIN)
    with pytest.raises(ValueError, match=r"3 cameras .* got 2 photos"):
        compose(crops[:2], CAMERAS, PLAIN)
    far = cameras_at([(0, 0), (31_000, 31_000)])
    with pytest.raises(ValueError, match="31130 x 31150 pixels, more than 500 million"):
        compose(crops[:2], far, PLAIN)
