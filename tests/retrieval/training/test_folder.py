"""Training on a folder of images without labels."""

import numpy as np
import pytest
import torch

from flowmatch.io import write_image
from flowmatch.retrieval import load, train_from_folder
from flowmatch.retrieval.training.folder import find_training_set
from flowmatch.retrieval.training.recipes import RECIPES, RetrievalRecipe
from flowmatch.training import Schedule


@pytest.fixture
def folder(tmp_path):
    """Three textures, twice each, and a damaged image."""
    root = tmp_path / "images"
    root.mkdir()
    for k in range(3):
        texture = np.random.default_rng(k).integers(0, 255, (16, 20), np.uint8)
        image = np.kron(texture, np.ones((12, 12), np.uint8))
        write_image(root / f"{k}a.png", image[:, :220])
        write_image(root / f"{k}b.png", image[12:, 17:])
    (root / "broken.png").write_bytes(b"no image")
    return root


def test_training_set(folder):
    calls = []
    images, pairs, failures = training_set = find_training_set(
        folder, progress=lambda *call: calls.append(call)
    )
    assert [image.shape for image in images] == [(192, 220, 3), (180, 223, 3)] * 3
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (2, 3), (4, 5)]
    assert training_set.objects == 3
    assert [failure.entry.name for failure in failures] == ["broken.png"]
    keypoints, verifying = calls[:7], calls[7:]
    assert keypoints == [("keypoints", k, 7) for k in range(1, 8)]
    assert verifying == [("verifying", k, 6) for k in range(1, 7)]


def test_weights_are_written(folder, tmp_path, monkeypatch):
    recipe = RetrievalRecipe(Schedule(2, batch=2), rounds=2, negatives=1, size=32)
    monkeypatch.setitem(RECIPES, "tiny", recipe)
    sets, steps = [], []
    network = train_from_folder(
        folder, tmp_path / "runs", recipe="tiny", device="cpu", workers=0, on_pairs=sets.append,
        on_step=lambda number, report: steps.append((number, report.step)),
    )  # fmt: skip
    assert [len(training_set.pairs) for training_set in sets] == [3]
    assert steps == [(0, 1), (0, 2), (1, 1), (1, 2)]
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert names == {"tiny-0.pt", "tiny-1.pt", "tiny.safetensors"}
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(images)
        loaded = load(tmp_path / "runs/tiny.safetensors")(images)
    torch.testing.assert_close(loaded, expected, atol=5e-3, rtol=0)  # weights are stored as float16
    with pytest.raises(ValueError, match="recipe must be one of .*, got 'none'"):
        train_from_folder(folder, tmp_path / "runs", recipe="none")
