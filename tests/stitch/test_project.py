"""Projection of photos whose place in the panorama is known."""

import numpy as np
import pytest

from flowmatch.stitch.cameras import Camera
from flowmatch.stitch.project import PROJECTIONS, Box, Projector, median_focal

from .conftest import intrinsics, turn

SIZE = (64, 48)


def rotating(R, focal=100.0, name="a"):
    K = intrinsics(focal, SIZE)
    return Camera(name, SIZE, focal, 1.0, (K[0, 2], K[1, 2]), R)


def affine(matrix):
    return Camera("a", SIZE, 1.0, 1.0, (0.0, 0.0), np.array(matrix, np.float64))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def test_plane_at_the_focal_length_is_the_identity(image):
    box, warped, mask = Projector("rotation", "plane", 100.0, 1.0).warp(rotating(np.eye(3)), image)
    assert abs(box.left + 31.5) <= 1 and abs(box.top + 23.5) <= 1
    assert abs(box.width - 64) <= 1 and abs(box.height - 48) <= 1
    # Where the photo lies, relative to the box: half pixels are rounded.
    inside = mask[:47, :63] == 255
    assert inside.mean() > 0.95
    smooth = np.linspace(0, 255, 64).astype(np.uint8)[None, :, None].repeat(48, 0).repeat(3, 2)
    _, warped, mask = Projector("rotation", "plane", 100.0, 1.0).warp(rotating(np.eye(3)), smooth)
    difference = warped[:47, :63].astype(int) - smooth[:47, :63]
    assert np.abs(difference)[mask[:47, :63] == 255].max() <= 4  # less than a pixel's gradient


@pytest.mark.parametrize("projection", ["cylindrical", "spherical", "mercator"])
def test_rotation_about_the_vertical_axis_shifts_columns(projection):
    projector = Projector("rotation", projection, 200.0, 1.0)
    boxes = [projector.box(rotating(turn(yaw)), SIZE) for yaw in (0.0, 30.0, -45.0)]
    assert all(abs(box.width - boxes[0].width) <= 1 for box in boxes)
    assert all((box.top, box.height) == (boxes[0].top, boxes[0].height) for box in boxes)
    assert boxes[1].left - boxes[0].left == pytest.approx(200 * np.radians(30), abs=1)
    assert boxes[2].left - boxes[0].left == pytest.approx(-200 * np.radians(45), abs=1)
    # The angle of view times the radius.
    assert boxes[0].width == pytest.approx(2 * 200 * np.arctan(32 / 100), abs=3)


def test_every_projection_warps(image):
    for projection in PROJECTIONS:
        box, warped, mask = Projector("rotation", projection, 100.0, 1.0).warp(
            rotating(turn(5, 3, 2)), image
        )
        assert warped.shape == (box.height, box.width, 3)
        assert mask.shape == (box.height, box.width)
        assert set(np.unique(mask)) <= {0, 255} and (mask == 255).mean() > 0.5, projection


@pytest.mark.parametrize("projection", ["cylindrical", "spherical", "mercator"])
@pytest.mark.parametrize("angles", [(180, 5, 3), (-171, -10, 0), (160, 20, -40), (178, -55, 20)])
def test_parts_at_both_edges_are_the_whole(projection, angles, image):
    """Two narrow parts hold the same pixels as one that is as wide as the panorama."""
    projector, camera = Projector("rotation", projection, 100.0, 1.0), rotating(turn(*angles), 50.0)
    assert projector.straddles(camera, SIZE)
    whole, pixels, mask = projector.warp(camera, image)
    assert whole.width > 600
    page = np.zeros((whole.height + 20, whole.width + 20, 3), int)
    shown = np.zeros(page.shape[:2], np.uint8)
    parts = projector.parts(camera, image, straddles=True)
    assert projector.boxes(camera, SIZE, straddles=True) == [part.box for part in parts]
    for box, warped, inside in parts:
        assert warped.shape == (*inside.shape, 3) and box.width < whole.width / 2
        assert abs(box.left) <= 315 and box.left + box.width <= 315  # the half circle
        top, left = box.top - whole.top + 10, box.left - whole.left + 10
        place = slice(top, top + box.height), slice(left, left + box.width)
        page[place][inside > 0] = warped[inside > 0]
        shown[place] |= inside
    # OpenCV's box of the whole photo lacks a few columns at the edges of the panorama.
    inner = slice(10, -10), slice(12, -12)
    assert (shown[inner] == mask[:, 2:-2]).mean() > 0.999
    both = (shown[inner] > 0) & (mask[:, 2:-2] > 0)
    assert np.abs(page[inner][both] - pixels[:, 2:-2][both]).mean() < 1


def test_photos_that_are_not_cut(image):
    sphere = Projector("rotation", "spherical", 100.0, 1.0)
    for angles in ((0, 0), (120, 10), (-60, -40), (180, 90), (30, 80)):
        camera = rotating(turn(*angles), 50.0)
        assert not sphere.straddles(camera, SIZE)
        (part,) = sphere.parts(camera, image, straddles=False)
        for ours, theirs in zip(part, sphere.warp(camera, image), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    behind = rotating(turn(180), 50.0)
    assert not Projector("rotation", "stereographic", 100.0, 1.0).straddles(behind, SIZE)
    assert not Projector("affine", "plane", 1.0, 1.0).straddles(affine(np.eye(3)), SIZE)


def test_affine_shift_is_exact(image):
    box, warped, mask = Projector("affine", "plane", 1.0, 1.0).warp(
        affine([[1, 0, 30], [0, 1, -7], [0, 0, 1]]), image
    )
    assert box == Box(30, -7, 64, 48) and box.corner == (30, -7)
    np.testing.assert_array_equal(warped, image)
    assert (mask == 255).all()


def test_affine_at_half_the_scale(image):
    matrix = [[0, -1, 100], [1, 0, 10], [0, 0, 1]]  # a quarter turn
    full = Projector("affine", "plane", 1.0, 1.0).box(affine(matrix), SIZE)
    assert full == Box(100 - 47, 10, 48, 64)
    half = Projector("affine", "plane", 1.0, 0.5).box(affine(matrix), (32, 24))
    assert tuple(half) == pytest.approx([side / 2 for side in full], abs=1)
    _, warped, _ = Projector("affine", "plane", 1.0, 1.0).warp(affine(matrix), image)
    np.testing.assert_array_equal(warped, np.rot90(image, -1))


def test_sizes_that_are_refused():
    with pytest.raises(ValueError, match="a would cover 63000001 x 47000001 pixels"):
        Projector("affine", "plane", 1.0, 1.0).box(affine(np.diag([1e6, 1e6, 1])), SIZE)
    with pytest.raises(ValueError, match="b would cover .* choose another projection"):
        Projector("rotation", "plane", 1e5, 1.0).box(rotating(turn(60), name="b"), SIZE)


def test_median_focal():
    assert median_focal([rotating(np.eye(3), focal) for focal in (90.0, 100.0, 500.0)]) == 100
