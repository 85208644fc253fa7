"""RANSAC on correspondences with known motions."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flowmatch.registration import ransac


def matches(share, seed, count=400, noise=0.005):
    rng = np.random.default_rng(seed)
    motion = np.eye(4)
    motion[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    motion[:3, 3] = rng.normal(size=3) * 100
    source = rng.uniform(-2, 2, (count, 3)) + 50
    target = source @ motion[:3, :3].T + motion[:3, 3] + noise * rng.normal(size=(count, 3))
    wrong = rng.permutation(count)[round(share * count) :]
    target[wrong] = target[np.roll(wrong, 1)]
    right = np.ones(count, bool)
    right[wrong] = False
    return source, target, motion, right


@pytest.mark.parametrize("seed", range(5))
def test_five_percent_of_inliers_suffice(seed):
    source, target, motion, right = matches(0.05, seed)
    result = ransac(source, target, 0.05, seed=seed)[0]
    moved = source @ result.motion[:3, :3].T + result.motion[:3, 3]
    truth = source @ motion[:3, :3].T + motion[:3, 3]
    assert np.abs(moved - truth).max() < 0.02
    assert (result.inliers & right).sum() == right.sum()
    assert result.inliers.sum() <= right.sum() + 2


def test_the_same_seed_gives_the_same_bits():
    source, target, *_ = matches(0.1, 0)
    first, second = (ransac(source, target, 0.05, trials=50_000, seed=7)[0] for _ in range(2))
    np.testing.assert_array_equal(first.motion, second.motion)
    np.testing.assert_array_equal(first.inliers, second.inliers)


def test_several_motions_are_distinguished():
    rng = np.random.default_rng(0)
    source = rng.uniform(-2, 2, (90, 3))
    target = source + np.repeat([[5.0, 0, 0], [0, 9, 0]], [60, 30], axis=0)
    result = ransac(source, target, 0.02, hypotheses=4)
    assert [int(hypothesis.inliers.sum()) for hypothesis in result[:2]] == [60, 30]
    np.testing.assert_allclose(result[0].motion[:3, 3], [5, 0, 0], atol=1e-9)
    np.testing.assert_allclose(result[1].motion[:3, 3], [0, 9, 0], atol=1e-9)


def test_no_motion_and_errors():
    assert ransac(np.zeros((2, 3)), np.zeros((2, 3)), 0.1) == []
    assert ransac(np.zeros((9, 3)), np.zeros((9, 3)), 0.1) == []
    with pytest.raises(ValueError, match=r"must correspond, got \[3, 3\] and \[4, 3\]"):
        ransac(np.zeros((3, 3)), np.zeros((4, 3)), 0.1)
    with pytest.raises(ValueError, match="threshold"):
        ransac(np.zeros((3, 3)), np.zeros((3, 3)), 0)
