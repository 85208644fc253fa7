"""Confidence files."""

import numpy as np
import pytest

from flowmatch.io.confidence import read_confidence, write_confidence
from flowmatch.io.image import write_image


def test_values_return_within_a_step(tmp_path):
    values = np.random.default_rng(0).random((30, 40), np.float32)
    write_confidence(tmp_path / "a.png", values)
    read = read_confidence(tmp_path / "a.png")
    assert read.dtype == np.float32
    assert np.abs(read - values).max() <= 0.51 / 65535


@pytest.mark.parametrize(
    "values", [np.zeros((2, 2, 1)), np.zeros((0, 3)), np.array([[1.1]]), np.array([[np.nan]])]
)
def test_other_values_are_refused(tmp_path, values):
    with pytest.raises(ValueError, match=r"confidence must be \[H, W\], 0 to 1"):
        write_confidence(tmp_path / "a.png", values)
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="written as .png"):
        write_confidence(tmp_path / "a.jpg", np.zeros((2, 2)))
    write_image(tmp_path / "gray.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match="expected a confidence PNG"):
        read_confidence(tmp_path / "gray.png")
    with pytest.raises(FileNotFoundError):
        read_confidence(tmp_path / "none.png")
