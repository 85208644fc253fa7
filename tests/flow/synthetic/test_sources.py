"""Sources of textures: folders, and files that are not images."""

import numpy as np
import pytest

from flowmatch.flow.synthetic.pairs import SyntheticFlow
from flowmatch.flow.synthetic.sources import Sources
from flowmatch.io.image import write_image


def test_from_folders(tmp_path, photo):
    write_image(tmp_path / "b.png", photo)
    write_image(tmp_path / "a.jpg", photo)
    (tmp_path / "notes.txt").write_text("not a picture")
    assert [f.name for f in Sources.from_folders(tmp_path).photos] == ["a.jpg", "b.png"]
    sample = SyntheticFlow(Sources.from_folders(tmp_path, tmp_path), (32, 32))[0]
    assert sample.flow.shape == (32, 32, 2)


def test_refuses_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no picture"):
        Sources.from_folders(tmp_path)


def test_refuses_a_cutout_that_is_not_an_image(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no picture")
    pairs = SyntheticFlow(Sources(cutouts=[tmp_path / "x.png"]), (32, 32))
    with (
        pytest.warns(UserWarning, match="x.png is damaged, or not an image"),
        pytest.raises(ValueError, match="none of 20 items chosen at random can be read"),
    ):
        [pairs[i] for i in range(5)]


def test_a_broken_photograph_is_skipped_and_named(tmp_path, photo):
    write_image(tmp_path / "good.png", photo)
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    pairs = SyntheticFlow(Sources.from_folders(tmp_path), (32, 32))
    with pytest.warns(UserWarning, match="skipped: .*bad.jpg is damaged"):
        first = [pairs[i] for i in range(8)]
    with pytest.warns(UserWarning):
        second = [pairs[i] for i in range(8)]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.first, b.first)
