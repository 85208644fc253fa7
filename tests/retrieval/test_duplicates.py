"""Copies among the pictures of an index."""

import numpy as np
import pytest
from skimage import data

from flowmatch._opencv import cv2
from flowmatch.io import write_image
from flowmatch.retrieval import VladOptions, build_index, find_duplicates


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("chelsea", "astronaut", "coffee", "rocket", "camera", "coins"):
        write_image(folder / f"{name}.png", getattr(data, name)())
    write_image(folder / "coffee-coded.jpg", data.coffee())
    write_image(folder / "coffee-half.png", cv2.resize(data.coffee(), (300, 200)))
    write_image(folder / "astronaut-part.png", np.ascontiguousarray(data.astronaut()[:400, 60:]))
    write_image(folder / "camera-turned.png", np.ascontiguousarray(np.rot90(data.camera())))
    left, right = data.stereo_motorcycle()[:2]
    write_image(folder / "stereo-left.png", left)
    write_image(folder / "stereo-right.png", right)
    return build_index(folder, model="rootsift", options=VladOptions(words=16, keypoints=300))


def test_copies_are_found_and_other_views_are_not(index):
    found = find_duplicates(index)
    assert {(pair.first, pair.second) for pair in found} == {
        ("astronaut-part.png", "astronaut.png"),
        ("camera-turned.png", "camera.png"),
        ("coffee-coded.jpg", "coffee-half.png"),
        ("coffee-coded.jpg", "coffee.png"),
        ("coffee-half.png", "coffee.png"),
    }
    assert all(pair.overlap > 0.95 and pair.correlation > 0.97 for pair in found)


def test_pictures_that_are_gone_are_skipped(index):
    steps = []
    moved = index.root / "coffee.png"
    content = moved.read_bytes()
    moved.unlink()
    try:
        found = find_duplicates(index, progress=lambda *step: steps.append(step))
    finally:
        moved.write_bytes(content)
    assert not any("coffee.png" in pair for pair in found)
    assert len(found) == 3
    assert steps[-1][0] == "compare" and steps[-1][1] == steps[-1][2] == len(steps)


def test_the_thresholds_decide(index):
    strict = find_duplicates(index, correlation=0.999)
    assert len(strict) < 5
    assert len(find_duplicates(index, overlap=1.1)) == 0
