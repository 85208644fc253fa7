"""Training pairs show the same points, repeat, and differ from other pairs."""

import pickle

import numpy as np
import pytest

from flowmatch.cli import main
from flowmatch.io import read_image, write_image
from flowmatch.matching.evaluation.metrics import project
from flowmatch.matching.synthetic.pairs import SyntheticPatches, find_photos


@pytest.fixture(scope="module")
def collection(photo):
    return SyntheticPatches([photo], points=64, pool=2, reuse=2, seed=3)


def dissimilarity(first, second):
    """Return 1 minus the correlation of patches."""
    flat = [x.reshape(len(x), -1).astype(float) for x in (first, second)]
    flat = [x - x.mean(axis=1, keepdims=True) for x in flat]
    flat = [x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-9) for x in flat]
    return 1 - (flat[0] * flat[1]).sum(axis=1)


def test_views_show_the_same_points(collection):
    """Repeated keypoints are within 3 pixels; the others have simulated detector errors."""
    for number in range(3):
        views = collection.views(number)
        first, second = views.keypoints
        projected = project(first.xy, views.homography)
        error = np.hypot(*(projected - second.xy).T)
        assert len(error) >= 24
        assert np.median(error) < 2
        assert (error < 3 + 0.5 * second.scale).mean() > 0.95
        for image, keypoints in zip(views.images, views.keypoints, strict=True):
            assert (keypoints.xy >= 0).all()
            assert (keypoints.xy <= np.array(image.shape[::-1]) - 1).mean() > 0.99


def test_pairs_are_similar(collection):
    for index in range(4):
        pairs = collection[index]
        assert pairs.first.shape == pairs.second.shape == (64, 32, 32)
        assert pairs.first.dtype == np.uint8
        same = dissimilarity(pairs.first, pairs.second)
        others = dissimilarity(pairs.first, np.roll(pairs.second, 7, axis=0))
        assert np.median(same) < 0.6 * np.median(others)


def test_repeats(photo, collection):
    again = SyntheticPatches([photo], points=64, pool=2, reuse=2, seed=3)
    for copy in (again, pickle.loads(pickle.dumps(collection))):
        assert all((a == b).all() for a, b in zip(copy[5], collection[5], strict=True))
    other = SyntheticPatches([photo], points=64, pool=2, reuse=2, seed=4)
    assert not (other[5].first == collection[5].first).all()
    assert not (collection[4].first == collection[5].first).all()


def test_locations_are_in_the_photograph(photo, collection):
    """A point in two pairs of views has one location."""
    location = np.concatenate([collection[index].location for index in range(6)])
    assert (location[:, 0] == 0).all()
    assert (location[:, 1:3] > -5).all()
    assert (location[:, 1:3] < np.array(photo.shape[1::-1]) + 5).all()
    numbers = [collection.views(n).location for n in (0, 1)]
    apart = np.linalg.norm(numbers[0][:, None, 1:3] - numbers[1][None, :, 1:3], axis=2).min(axis=1)
    assert (apart < 2).mean() > 0.2  # many points are detected in both first views


def test_bounds(collection):
    assert len(collection) == 2**40
    with pytest.raises(IndexError, match="got -1"):
        collection[-1]
    with pytest.raises(ValueError, match="must be positive, got .32, 0, 128, 8"):
        SyntheticPatches(points=0)
    flat = np.full((200, 200), 128, np.uint8)
    with pytest.raises(ValueError, match="expected photographs with texture"):
        SyntheticPatches([flat])[0]


def test_a_broken_photograph_is_skipped_and_named(tmp_path, photo):
    write_image(tmp_path / "good.png", photo)
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    pairs = SyntheticPatches(find_photos(tmp_path), pool=8)
    with pytest.warns(UserWarning, match=r"skipped: .*bad.jpg is damaged"):
        places = {int(pairs.views(number).location[0, 0]) for number in range(8)}
    assert places == {1}


def test_without_photos_textures_are_procedural():
    assert len(np.unique(SyntheticPatches(points=8, pool=1)[0].first)) > 20


def test_find_photos(tmp_path):
    assert find_photos(None) == ()
    with pytest.raises(FileNotFoundError, match="holds no picture"):
        find_photos(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_photos(tmp_path / "none")


def test_sheet(tmp_path, photo, capsys):
    write_image(tmp_path / "a.png", photo)
    sheet = tmp_path / "sheet.png"
    words = ["-o", str(sheet), "--count", "2", "--patches", "5", "--size", "16"]
    assert main(["synth", "matching", "--photos", str(tmp_path), *words]) == 0
    assert read_image(sheet).shape == (2 * 2 * 16, 5 * 16, 3)
    assert "2 pairs of views" in capsys.readouterr().err
