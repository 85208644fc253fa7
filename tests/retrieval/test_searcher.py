"""Search of an index: nearest descriptors, verification, and the model of the index."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import data

from flowmatch._opencv import cv2
from flowmatch.io import write_image
from flowmatch.retrieval import (
    Result,
    RetrievalNet,
    Searcher,
    VladOptions,
    build_index,
    read_index,
    search,
    update_index,
    verify_geometry,
    write_index,
)
from flowmatch.retrieval.index import Entry, Index
from flowmatch.retrieval.network import initial_network
from flowmatch.retrieval.store import save_weights


def test_search_and_faiss(tmp_path):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(400, 16, generator=generator), dim=1)
    entries = [Entry(f"{k}.png", 1, 1) for k in range(400)]
    write_index(tmp_path / "i.safetensors", Index("random", tmp_path, entries, vectors.half()))
    index = read_index(tmp_path / "i.safetensors")
    query = vectors[7] + 0.1 * vectors[9]
    scores = vectors @ query / query.norm()
    results = Searcher(index).search(query, 5)
    assert [r.name for r in results] == [f"{k}.png" for k in scores.argsort(descending=True)[:5]]
    assert results[0].score == pytest.approx(float(scores[7]), abs=1e-3)
    assert Searcher(index).search(query, 3, expand=2)[0].name == "7.png"
    with pytest.raises(ValueError, match="nothing in the query"):
        Searcher(index).search(torch.zeros(16))
    with pytest.raises(ValueError, match=r"has shape \[4\], expected \[16\]"):
        Searcher(index).search(torch.ones(4))
    with pytest.raises(ValueError, match="k must be"):
        Searcher(index).search(query, 0)
    with pytest.raises(ValueError, match="empty"):
        Searcher(Index("nothing", tmp_path))
    pytest.importorskip("faiss")
    assert Searcher(index, approximate=True).search(query, 1)[0].name == "7.png"


def test_zero_descriptors_are_never_results(folder, tmp_path, mean_colour):
    """Older indexes contain them; their score of 0 exceeds negative scores."""
    index = update_index(folder, tmp_path / "i.safetensors", mean_colour())
    entries = [Entry("blank.png", 1, 1), *index.entries]
    old = Index("old", folder, entries, torch.cat([torch.zeros(1, 3), index.descriptors]).half())
    results = Searcher(old).search(torch.tensor([0.9, 0.1, -0.1]))
    assert [result.name for result in results] == ["red.png", "green.png", "more/blue.png"]
    with pytest.raises(ValueError, match="empty"):
        Searcher(Index("old", folder, entries[:1], old.descriptors[:1]))


def test_augmentation_averages_neighbours(tmp_path):
    angles = torch.tensor([0.0, 0.2, 1.5])
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    entries = [Entry(f"{k}.png", 1, 1) for k in range(3)]
    index = Index("angles", tmp_path, entries, vectors.half())
    query = torch.tensor([1.0, 0.0])
    assert [result.name for result in Searcher(index).search(query)] == ["0.png", "1.png", "2.png"]
    searcher = Searcher(index, augment=1, alpha=0.0)
    # The first two are each other's neighbour, and so have the same mean, at 0.1.
    scores = {result.name: result.score for result in searcher.search(query)}
    assert scores["0.png"] == pytest.approx(float(torch.tensor(0.1).cos()), abs=1e-3)
    assert scores["1.png"] == pytest.approx(scores["0.png"], abs=1e-3)
    expected = F.normalize(vectors[1] + vectors[2], dim=0)[0]
    assert scores["2.png"] == pytest.approx(float(expected), abs=1e-3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folder of three photographs."""
    root = tmp_path_factory.mktemp("photos")
    for name in ("chelsea", "astronaut", "coffee"):
        write_image(root / f"{name}.png", np.ascontiguousarray(getattr(data, name)()[:300, :300]))
    return root


def test_verified_results_come_first(photos):
    options = VladOptions(words=8, keypoints=300)
    index = build_index(photos, model="rootsift", options=options)
    turn = cv2.getRotationMatrix2D((150, 150), 15, 1.0)
    query = cv2.warpAffine(data.coffee()[:300, :300], turn, (300, 300))
    first, *others = search(index, query, count=3, verify=True)
    assert first.name == "coffee.png" and first.inliers > 30
    assert all(result.inliers < 12 for result in others)
    assert [result.inliers for result in search(index, query, count=2)] == [None, None]
    with pytest.raises(FileNotFoundError):
        search(index, photos / "none.png")
    with pytest.raises(ValueError, match="nothing in the query"):
        search(index, np.zeros((50, 60), np.uint8))
    with pytest.raises(ValueError, match="image must be uint8"):
        search(index, query / 255)


def test_index_of_a_network(photos, tmp_path):
    network = initial_network().eval()
    path, weights = tmp_path / "i.safetensors", tmp_path / "w.safetensors"
    save_weights(weights, network, "retrieval", network.arguments, torch.float32)
    for model in (weights, network):
        index = build_index(photos, path, model=model, device="cpu", overwrite=True)
        assert index.descriptors.shape == (3, 160)
        results = search(path, photos / "coffee.png", model=model, device="cpu")
        assert results[0].name == "coffee.png"
        with pytest.raises(
            ValueError, match="the index was made by 'backbone .* give those weights"
        ):
            search(path, photos / "coffee.png")
        with pytest.raises(ValueError, match="was made by 'backbone .* not with 'rootsift'"):
            search(path, photos / "coffee.png", model="rootsift")
    other = RetrievalNet(4).eval()
    with pytest.raises(ValueError, match="not by 'backbone RetrievalNet"):
        search(path, photos / "coffee.png", model=other, device="cpu")


def test_missing_images_have_no_inliers(tmp_path):
    results = [Result("gone.png", 0.5), Result("later.png", 0.4)]
    verified = verify_geometry(results, np.zeros((60, 80), np.uint8), tmp_path, candidates=1)
    assert verified == [Result("gone.png", 0.5, 0), Result("later.png", 0.4, None)]
