import numpy as np
import pytest

from flowmatch._opencv import cv2
from flowmatch.io import write_image
from flowmatch.metric_learning.data.instances import render_instances


@pytest.fixture
def folders(tmp_path):
    """Folders of a red and a blue disc, and of a gray wall."""
    cutouts, photos = tmp_path / "cutouts", tmp_path / "photos"
    cutouts.mkdir()
    photos.mkdir()
    for name, colour in (("blue", (255, 0, 0, 255)), ("red", (0, 0, 255, 255))):  # BGRA
        disc = np.zeros((40, 60, 4), np.uint8)
        cv2.ellipse(disc, (30, 20), (28, 18), 0, 0, 360, colour, -1)
        cv2.imwrite(str(cutouts / f"{name}.png"), disc)
    write_image(photos / "wall.png", np.full((30, 200, 3), 128, np.uint8))
    return cutouts, photos


def test_instances(folders):
    images = render_instances(*folders, views=6, size=32)
    assert images.pictures.shape == (12, 32, 32, 3) and images.classes == ("blue", "red")
    assert images.labels.tolist() == [0] * 6 + [1] * 6
    for index in range(12):
        red, green, blue = np.median(images.picture(index)[13:19, 13:19], axis=(0, 1))
        own, opposite = (red, blue) if index >= 6 else (blue, red)
        assert own > 150 and opposite < 60 and green < 60  # the disc is in the middle
        corner = images.picture(index)[:2, :2].mean((0, 1))
        assert np.ptp(corner) < 25  # and the wall around it
    assert len(np.unique(images.pictures[:6].reshape(6, -1), axis=0)) == 6
    again = render_instances(*folders, views=6, size=32)
    assert np.array_equal(images.pictures, again.pictures)
    other = render_instances(*folders, views=6, size=32, seed=1)
    assert not np.array_equal(images.pictures, other.pictures)


def test_parts_of_photographs_are_instances(folders):
    cutouts, photos = folders
    stripes = np.zeros((60, 200, 3), np.uint8)
    stripes[:, :100, 0] = 255 * (np.arange(100) % 20 < 10)  # red stripes, then green ones
    stripes[:, 100:, 1] = 255 * (np.arange(100) % 20 < 10)
    write_image(photos / "stripes.png", stripes)
    images = render_instances(cutouts, photos, views=8, size=32, parts=2)
    assert sorted(images.classes) == [
        "blue", "red", "stripes, part 1", "stripes, part 2", "wall, part 1", "wall, part 2",
    ]  # fmt: skip
    for name, colour in (("stripes, part 1", 0), ("stripes, part 2", 1)):
        views = images.pictures[images.labels == images.classes.index(name)]
        centre = views[:, 10:22, 10:22].mean((0, 1, 2))
        assert centre[colour] > 80 and np.delete(centre, colour).max() < 30
        # The wall, not the part's own photograph, is the background of all its views.
        assert np.ptp(views[:, 0, 0].astype(int), axis=1).max() < 40
    hard = render_instances(cutouts, photos, views=8, size=32, parts=2, hard=True)
    assert hard.classes == images.classes
    assert not np.array_equal(hard.pictures, images.pictures)
    again = render_instances(cutouts, photos, views=8, size=32, parts=2, hard=True)
    assert np.array_equal(hard.pictures, again.pictures)
    colours = hard.pictures.reshape(-1, 8, 32 * 32, 3).mean(2)
    easy = images.pictures.reshape(-1, 8, 32 * 32, 3).mean(2)
    assert colours.std(1).mean() > easy.std(1).mean()  # more change among views of a class


def test_refusals(folders, tmp_path):
    cutouts, photos = folders
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="2 cut-outs and a photograph at least, got 2 and 0"):
        render_instances(cutouts, tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no folder"):
        render_instances(tmp_path / "nowhere", photos)
    write_image(cutouts / "opaque.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="opaque.png: expected a picture with transparent parts"):
        render_instances(cutouts, photos)


def test_cutouts_over_photographs_by_the_command(folders, capsys):
    from flowmatch.cli import main

    cutouts, photos = map(str, folders)
    words = [cutouts, "--photos", photos, "--compare", "--losses", "hadsell", "--steps", "1"]
    assert main(["eval", "metric-learning", *words, "--seeds", "1", "--unseen", "pictures"]) == 0
    assert "20 pictures of 2 classes for training" in capsys.readouterr().out
