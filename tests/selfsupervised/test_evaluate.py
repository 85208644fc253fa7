import numpy as np
import pytest
import torch
from torch import nn

from flowmatch.metric_learning.networks import EmbeddingNet
from flowmatch.selfsupervised.evaluate import (
    BASELINES,
    calibrate_batch_norm,
    colour_histogram,
    embed_patches,
    retrieval_sheet,
    score_patches,
)
from flowmatch.selfsupervised.patches import TrackedPatches
from flowmatch.selfsupervised.tracks import Track, find_tracks


@pytest.fixture(scope="module")
def patches(moving):
    frames, flow, _ = moving
    return TrackedPatches.from_tracks([find_tracks(frames, flow, size=20)])


@pytest.fixture(scope="module")
def crowd():
    """Four tracks side by side, of which the last ends earlier."""
    rng = np.random.default_rng(1)

    def track(number):
        frames = list(range(0, 60 if number < 3 else 30))
        kept = {n: rng.integers(0, 255, (8, 8, 3), np.uint8) for n in frames[::5]}
        return Track(frames, [(40.0 * number, 0.0, 10.0, 20.0)] * len(frames), kept)

    return TrackedPatches.from_tracks([[track(number) for number in range(4)]])


def plain(embeddings, patches, gap):
    different = patches.different()
    rows = {}
    for q in range(len(patches)):
        pool = []
        for i in range(len(patches)):
            same = patches.track[i] == patches.track[q]
            far = abs(int(patches.frame[i]) - int(patches.frame[q])) >= gap
            if (same and far) or different[patches.track[q], patches.track[i]]:
                cosine = torch.cosine_similarity(embeddings[q], embeddings[i], dim=0)
                pool.append((-float(cosine), bool(same)))
        if not any(same for _, same in pool):
            continue
        pool.sort()
        hits = [same for _, same in pool]
        precisions = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
        row = (hits[0], sum(precisions) / len(precisions), sum(hits) / len(hits))
        rows.setdefault(int(patches.track[q]), []).append(row)
    return np.mean([np.mean(of, axis=0) for of in rows.values()], axis=0), rows


def test_equals_a_loop_over_queries(crowd):
    torch.manual_seed(0)
    embeddings = torch.randn(len(crowd), 3, dtype=torch.float64)
    expected, rows = plain(embeddings, crowd, 20)
    scores = score_patches(embeddings, crowd, gap=20)
    assert scores.recall_at_1.mean == pytest.approx(expected[0])
    assert scores.map.mean == pytest.approx(expected[1])
    assert scores.chance == pytest.approx(expected[2])
    assert (scores.tracks, scores.queries) == (4, sum(map(len, rows.values())))
    assert scores.queries == 3 * 12 + 4  # the short track has frames 0, 5, 20, 25


def test_scores_of_perfect_and_of_constant_embeddings(crowd):
    known = torch.nn.functional.one_hot(torch.from_numpy(crowd.track)).float()
    assert score_patches(known, crowd).map.mean == 1.0
    # Irrelevant patches come first among ties, so that a constant scores 0.
    assert score_patches(torch.ones(len(crowd), 2), crowd).recall_at_1.mean == 0.0
    with pytest.raises(ValueError, match=r"must be \[42, D\], got \[3, 4\]"):
        score_patches(known[:3], crowd)
    with pytest.raises(ValueError, match="no track has patches 90 frames apart"):
        score_patches(known, crowd, gap=90)


def test_baselines_see_colours(patches):
    for make in BASELINES.values():
        table = make(patches)
        assert len(table) == len(patches)
        assert score_patches(table, patches, gap=10).recall_at_1.mean == 1.0
    counts = colour_histogram(patches, stripes=4)
    assert counts.shape == (len(patches), 4 * 512)
    assert counts.square().sum(1).tolist() == [400.0] * len(patches)


def test_statistics_of_an_untrained_network(patches):
    torch.manual_seed(0)
    network = EmbeddingNet("small", 4)
    calibrated = calibrate_batch_norm(network, patches, 16)
    assert not calibrated.training and network.training
    first = calibrated.backbone.layers[1]
    assert not torch.equal(first.running_mean, network.backbone.layers[1].running_mean)
    # One batch holds all patches, so that eval mode equals training mode.
    middle = torch.from_numpy(patches.patches[:, 2:18, 2:18]).movedim(-1, 1).float() / 255
    expected = nn.functional.conv2d(2 * middle - 1, network.backbone.layers[0].weight, padding=1)
    torch.testing.assert_close(first.running_mean, expected.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert embed_patches(calibrated, patches, 16).shape == (len(patches), 4)


def test_sheet_frames_hits(patches):
    known = torch.nn.functional.one_hot(torch.from_numpy(patches.track)).float()
    sheet = retrieval_sheet(
        {"known": known, "same": torch.ones(len(known), 2)}, patches, gap=10, shown=3
    )
    assert sheet.shape[1] == 8 + 4 * 148 and sheet.dtype == np.uint8
    green = (sheet == (64, 160, 90)).all(-1)
    rows = np.array_split(green, 4)  # two tracks, a row for each embedding
    assert rows[0].any() and rows[2].any() and not rows[1].any() and not rows[3].any()
