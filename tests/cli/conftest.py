"""Pictures, clips and weights for several commands."""

import numpy as np
import pytest
from skimage import data

from flowmatch._opencv import cv2
from flowmatch.align import AlignNet
from flowmatch.align.store import save_weights
from flowmatch.flow.baselines import dis_refined
from flowmatch.io import VideoWriter, write_image
from flowmatch.selfsupervised import RECIPES, VideoRecipe
from flowmatch.training import Schedule

TINY_ALIGN = {"size": 88, "width": 4, "channels": [8, 8]}


@pytest.fixture
def turned_pair(tmp_path, photo):
    """Return a folder of a photograph, a.png, and the same turned a little, b.png."""
    matrix = np.array([[0.95, -0.1, 20.0], [0.1, 0.95, -10.0]])
    write_image(tmp_path / "a.png", photo)
    write_image(tmp_path / "b.png", cv2.warpAffine(photo, matrix, (451, 300)))
    return tmp_path


@pytest.fixture
def align_weights(tmp_path):
    save_weights(tmp_path / "w.safetensors", AlignNet(**TINY_ALIGN), "align", TINY_ALIGN)
    return tmp_path / "w.safetensors"


@pytest.fixture
def views(tmp_path):
    """Return a folder of three photographs, twice each, the second time from another view."""
    (tmp_path / "pictures").mkdir()
    turn = cv2.getRotationMatrix2D((150, 150), 10, 1.1)
    for name in ("chelsea", "astronaut", "coffee"):
        whole = np.ascontiguousarray(getattr(data, name)()[:300, :300])
        moved = cv2.warpAffine(whole, turn, (300, 300), borderMode=cv2.BORDER_REFLECT)
        for side, picture in (("a", whole), ("b", moved)):
            write_image(tmp_path / "pictures" / f"{name}-{side}.png", picture)
    return tmp_path


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """Return a clip of two textured squares that move, with a recipe that takes seconds."""
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 110, (32, 50, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    squares = [rng.integers(0, 255, (6, 6, 3), np.uint8).repeat(4, 0).repeat(4, 1) for _ in "ab"]
    with VideoWriter(tmp_path / "clip.avi", rate=25) as video:
        for number in range(20):
            frame = ground.copy()
            frame[16:40, 10 + 3 * number : 34 + 3 * number] = squares[0]
            frame[88:112, 160 - 3 * number : 184 - 3 * number] = squares[1]
            video.write(frame)
    tiny = VideoRecipe(Schedule(steps=3, batch=4), dimension=8, size=16)
    monkeypatch.setitem(RECIPES, "tiny", tiny)
    # The flow of the network would be right as well, but takes longer.
    monkeypatch.setattr(
        "flowmatch.cli._video.estimate_flow", lambda a, b, **options: dis_refined(a, b)
    )
    return tmp_path / "clip.avi"
