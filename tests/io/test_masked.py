"""Transparent pixels: alpha is a mask for all that matches pictures."""

import numpy as np
import pytest

from flowmatch._opencv import cv2
from flowmatch.imaging import resize
from flowmatch.io import read_image, write_image
from flowmatch.io.masked import _turned_like, find_masks, read_masked
from flowmatch.retrieval import VladOptions, build_index, search


def test_alpha_is_turned_as_colours_are():
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (20, 30, 4), np.uint8)
    for turned in (rgba, np.rot90(rgba), np.rot90(rgba[:, ::-1], 3), rgba[::-1]):
        np.testing.assert_array_equal(_turned_like(rgba, turned[..., :3]), turned)
    with pytest.raises(ValueError, match="its alpha is 30 x 20, unlike its colours"):
        _turned_like(rgba, np.zeros((21, 30, 3), np.uint8))


def with_hole(path, colours, hole):
    """Write a picture that is transparent, and stored as black, within a circle."""
    alpha = np.full(colours.shape[:2], 255, np.uint8)
    cv2.circle(alpha, *hole, 0, -1)
    stored = np.dstack([colours[..., ::-1] * (alpha > 0)[..., None], alpha])
    cv2.imwrite(str(path), stored.astype(np.uint8))
    return alpha > 0


@pytest.fixture
def smooth():
    """Return blurred colours, on which the edge of a hole would be the strongest feature."""
    noise = np.random.default_rng(0).integers(60, 256, (6, 8, 3), np.uint8)
    return resize(noise, (320, 240), cv2.INTER_CUBIC)


def test_no_edge_is_seen(smooth, tmp_path):
    inside = with_hole(tmp_path / "a.png", smooth, ((150, 120), 60))
    filled, mask = read_masked(tmp_path / "a.png")
    assert (mask > 0).tolist() == inside.tolist()
    near = np.ones((9, 9), np.uint8)
    ring = cv2.dilate(1 - mask // 255, near) & cv2.dilate(mask // 255, near) > 0

    def steps(image):
        vertical = np.abs(np.diff(image.astype(int), axis=0)).max(axis=2)
        return vertical[ring[1:] & ring[:-1]].max()

    assert steps(read_image(tmp_path / "a.png")) > 60
    assert steps(filled) <= 30


def test_the_same_hole_is_no_resemblance(tmp_path):
    """Pictures of other content with the same cut-out: the hole was what they share."""
    rng = np.random.default_rng(1)
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(4):
        blocks = rng.integers(60, 256, (12, 16, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
        with_hole(folder / f"{k}.png", blocks, ((128, 96), 70))
    index = build_index(folder, model="rootsift", options=VladOptions(words=4))
    results = search(index, folder / "0.png", verify=True)
    assert results[0].name == "0.png"
    assert all(result.inliers < 12 for result in results[1:])


def test_a_mask_of_its_own_adds_to_transparency(smooth, tmp_path):
    inside = with_hole(tmp_path / "a.png", smooth, ((150, 120), 60))
    kept = np.full(inside.shape, 200, np.uint8)
    kept[:, :40] = 90
    write_image(tmp_path / "mask.png", kept)
    picture = read_masked(tmp_path / "a.png", tmp_path / "mask.png")
    np.testing.assert_array_equal(picture.mask > 0, inside & (kept > 127))
    edge = np.repeat(picture.image[100:140, 40:41], 40, axis=1)
    np.testing.assert_array_equal(picture.image[100:140, :40], edge)
    write_image(tmp_path / "small.png", kept[:9, :8])
    with pytest.raises(ValueError, match="small.png must have the size of a.png, 320 x 240 pix"):
        read_masked(tmp_path / "a.png", tmp_path / "small.png")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("x", "y"):
        write_image(tmp_path / f"a/{name}.png", np.zeros((6, 8, 3), np.uint8))
    return tmp_path


def test_masks_are_found_by_name(folder):
    photos = [folder / "a/x.png", folder / "a/y.png"]
    masks = folder / "masks"
    masks.mkdir()
    with pytest.raises(FileNotFoundError, match="holds no picture"):
        find_masks(photos, masks)
    with pytest.raises(FileNotFoundError, match="must be a folder of masks"):
        find_masks(photos, folder / "a/x.png")
    black = np.zeros((6, 8), np.uint8)
    write_image(masks / "z.png", black)
    with pytest.raises(ValueError, match="a mask of no photo: that of x.png would be called x.png"):
        find_masks(photos, masks)
    write_image(masks / "y.jpg", black)
    assert find_masks(photos, masks) == [None, masks / "y.jpg"]
    write_image(masks / "y.png", black)
    with pytest.raises(ValueError, match="one mask of y.png, got y.jpg, y.png"):
        find_masks(photos, masks)
    write_image(masks / "y.png.png", black)
    assert find_masks(photos, masks) == [None, masks / "y.png.png"]
    with pytest.raises(ValueError, match="a mask of no photo"):
        find_masks(photos, folder / "a")  # the photos are no masks of themselves


def test_masks_of_subfolders(folder):
    photos, masks = [folder / "a/x.png", folder / "y.png"], folder / "masks"
    (masks / "a").mkdir(parents=True)
    black = np.zeros((6, 8), np.uint8)
    write_image(masks / "y.jpg", black)
    write_image(masks / "a/x.png.png", black)
    assert find_masks(photos, masks, root=folder) == [masks / "a/x.png.png", masks / "y.jpg"]
    assert find_masks(photos, masks) == [None, masks / "y.jpg"]
    (masks / "y.jpg").unlink()
    assert find_masks(photos, masks, root=folder) == [masks / "a/x.png.png", None]
    (masks / "a/x.png.png").unlink()
    with pytest.raises(ValueError, match="a mask of no photo"):
        find_masks(photos, masks, root=folder)
