"""Indexes of pictures that have 12 bits in 16."""

import numpy as np
import pytest

from flowmatch._opencv import cv2
from flowmatch.io import white_level
from flowmatch.retrieval import VladOptions, build_index, read_index, search

OPTIONS = VladOptions(words=4)


@pytest.mark.filterwarnings("error")
def test_an_index_keeps_its_white(tmp_path):
    folder, file = tmp_path / "photos", tmp_path / "i.safetensors"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        blocks = rng.integers(0, 4096, (12, 12)).repeat(8, axis=0).repeat(8, axis=1)
        cv2.imwrite(str(folder / f"{name}.png"), blocks.astype(np.uint16))
    with white_level(4095):
        build_index(folder, file, model="rootsift", options=OPTIONS)
    assert read_index(file).white == 4095
    first, *_ = search(file, folder / "b.png", verify=True)
    assert (first.name, first.score) == ("b.png", pytest.approx(1, abs=1e-3))
    (folder / "c.png").unlink()
    index = build_index(folder, file, model="rootsift", options=OPTIONS)
    assert (index.white, len(index.entries)) == (4095, 2)
    with white_level(1023), pytest.raises(ValueError, match="white at 4095, not 1023"):
        build_index(folder, file, model="rootsift", options=OPTIONS)
