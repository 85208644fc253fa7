"""Photos: their names, their sizes, folders of them."""

import cv2
import numpy as np
import pytest

from flowmatch.io import write_image
from flowmatch.stitch.photos import (
    expand_folders,
    open_photos,
    reduce_image,
    scale_for,
    scaled_size,
)


@pytest.fixture
def folder(tmp_path):
    """Two folders, with an image of the same name in each."""
    for name, gray in {"a/x.png": 10, "a/y.png": 20, "b/x.png": 30}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, np.full((6, 8, 3), gray, np.uint8))
    return tmp_path


def test_names_are_unique(folder):
    files = [folder / "a/x.png", str(folder / "a/y.png"), folder / "b/x.png"]
    photos = open_photos([*files, np.zeros((4, 5), np.uint8)])
    names = [str(folder / "a/x.png"), "y.png", str(folder / "b/x.png"), "photo 4"]
    assert [photo.name for photo in photos] == names
    assert [photo.number for photo in photos] == [0, 1, 2, 3]
    assert [photo.read()[0, 0, 0] for photo in photos] == [10, 20, 30, 0]
    # Photos that are open keep their names and numbers.
    assert open_photos(photos[2:]) == photos[2:]


def test_files_are_read_when_needed(folder):
    (photo,) = open_photos([folder / "a/x.png"])
    write_image(folder / "a/x.png", np.full((6, 8, 3), 99, np.uint8))
    assert photo.read().shape == (6, 8, 3) and photo.read()[0, 0, 0] == 99
    with pytest.raises(FileNotFoundError, match="nosuch.png does not exist"):
        open_photos([folder / "a/x.png", folder / "nosuch.png"])


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_alpha_is_a_mask(tmp_path, suffix):
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (4, 6, 4), np.uint8), (60, 40))
    smooth[..., 3] = 255
    smooth[:10, 20:] = (0, 0, 0, 0)
    smooth[20, 20] = (0, 0, 0, 100)
    file = tmp_path / f"hole.{suffix}"
    flags = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == "webp" else []
    cv2.imwrite(str(file), smooth[..., [2, 1, 0, 3]], flags)
    (photo,) = open_photos([file])
    image, mask = photo.read_masked()
    np.testing.assert_array_equal(mask, np.where(smooth[..., 3] > 127, 255, 0))
    np.testing.assert_array_equal(image[mask > 0], smooth[..., :3][mask > 0])
    np.testing.assert_array_equal(photo.read(), image)
    # Transparent pixels continue their neighbours.
    np.testing.assert_array_equal(image[:10, 30], np.repeat(image[10:11, 30], 10, axis=0))
    assert photo.read_masked((30, 20)).mask.mean() == pytest.approx(mask.mean(), rel=0.02)
    (opaque,) = open_photos([np.ascontiguousarray(smooth[..., :3])])
    assert opaque.read_masked().mask is None


def test_files_without_alpha_have_no_mask(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for suffix in ("png", "jpg", "bmp", "ppm", "tif", "webp"):
        write_image(tmp_path / f"a.{suffix}", pixels)
    cv2.imwrite(str(tmp_path / "opaque.png"), np.dstack([pixels, np.full((20, 30), 255, np.uint8)]))
    cv2.imwrite(str(tmp_path / "clear.png"), np.dstack([pixels, np.zeros((20, 30), np.uint8)]))
    for file in tmp_path.iterdir():
        image, mask = open_photos([file])[0].read_masked()
        assert (mask is None) == (file.name != "clear.png"), file.name
    image, mask = open_photos([tmp_path / "clear.png"])[0].read_masked()
    assert not mask.any() and not image.any()


def test_pixels_become_rgb_and_are_reduced():
    gray = np.arange(48, dtype=np.uint8).reshape(6, 8)
    (photo,) = open_photos([gray])
    np.testing.assert_array_equal(photo.read(), np.stack([gray] * 3, axis=2))
    half = gray.reshape(3, 2, 4, 2).mean((1, 3))
    assert photo.read((4, 3)).shape == (3, 4, 3)
    assert np.abs(photo.read((4, 3))[..., 0] - half).max() <= 0.5
    for pixels in (gray / 255, np.zeros((4, 5, 4), np.uint8), np.zeros((0, 5), np.uint8)):
        with pytest.raises(ValueError, match=r"photo 1 must be uint8 RGB \[H, W, 3\] or gray"):
            open_photos([pixels])[0].read()


def test_folders_are_expanded(folder):
    (folder / "a/notes.txt").write_text("no image")
    (folder / "empty").mkdir()
    images = expand_folders([folder / "b/x.png", folder / "a"])
    assert images == [folder / "b/x.png", folder / "a/x.png", folder / "a/y.png"]
    without = {(folder / "a/x.png").resolve()}
    assert expand_folders([folder / "a"], without) == [folder / "a/y.png"]
    assert expand_folders([folder / "a/x.png"], without) == [folder / "a/x.png"]
    with pytest.raises(FileNotFoundError, match="empty"):
        expand_folders([folder / "empty"])
    with pytest.raises(FileNotFoundError, match="nosuch does not exist"):
        expand_folders([folder / "empty", folder / "nosuch"])


def test_sizes():
    assert scale_for((1000, 500), None) == scale_for((1000, 500), 2.0) == 1
    assert scale_for((2000, 1000), 0.5) == 0.5
    assert scaled_size((101, 40), 0.5) == (50, 20)
    assert scaled_size((101, 1), 0.1) == (10, 1)
    image = np.zeros((4, 6, 3), np.uint8)
    assert reduce_image(image, (6, 4)) is image
    assert reduce_image(image, (3, 2)).shape == (2, 3, 3)


def test_masks(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 256, (20, 30, 3), np.uint8)
    kept = np.ones((20, 30), np.bool_)
    kept[:, :10] = False
    rgba = np.dstack([pixels[..., ::-1], np.full((20, 30), 255, np.uint8)])
    rgba[:5] = 0
    cv2.imwrite(str(tmp_path / "clear.png"), rgba)
    write_image(tmp_path / "mask.png", np.where(kept, 200, 90).astype(np.uint8))
    plain, masked, both = open_photos(
        [pixels, pixels, tmp_path / "clear.png"], [None, kept, tmp_path / "mask.png"]
    )
    assert plain.read_masked().mask is None
    image, mask = masked.read_masked()
    np.testing.assert_array_equal(mask > 0, kept)
    np.testing.assert_array_equal(image[kept], pixels[kept])
    np.testing.assert_array_equal(image[:, :10], np.repeat(pixels[:, 10:11], 10, axis=1))
    # Alpha and mask: both must keep a pixel.
    kept[:5] = False
    np.testing.assert_array_equal(both.read_masked().mask > 0, kept)


def test_errors_of_masks(folder, tmp_path):
    with pytest.raises(ValueError, match="one mask for each of 2 photos, got 1"):
        open_photos([folder / "a/x.png"] * 2, [None])
    with pytest.raises(FileNotFoundError, match="nosuch.png does not exist"):
        open_photos([folder / "a/x.png"], [folder / "nosuch.png"])
    (photo,) = open_photos([folder / "a/x.png"], [np.ones((6, 9), np.bool_)])
    with pytest.raises(
        ValueError, match="mask of x.png must have the size of x.png, 8 x 6 pixels, got 9 x 6"
    ):
        photo.read()
    with pytest.raises(ValueError, match="x.png is open already"):
        open_photos([photo], [np.ones((6, 8), np.bool_)])
