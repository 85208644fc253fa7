"""RANSAC against motions that are known."""

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
def test_five_percent_are_enough(seed):
    source, target, motion, right = matches(0.05, seed)
    found = ransac(source, target, 0.05, seed=seed)[0]
    moved = source @ found.motion[:3, :3].T + found.motion[:3, 3]
    truth = source @ motion[:3, :3].T + motion[:3, 3]
    assert np.abs(moved - truth).max() < 0.02
    assert (found.inliers & right).sum() == right.sum()
    assert found.inliers.sum() <= right.sum() + 2


def test_the_same_seed_gives_the_same_bits():
    source, target, *_ = matches(0.1, 0)
    first, second = (ransac(source, target, 0.05, trials=50_000, seed=7)[0] for _ in range(2))
    np.testing.assert_array_equal(first.motion, second.motion)
    np.testing.assert_array_equal(first.inliers, second.inliers)


def test_several_motions_are_told_apart():
    rng = np.random.default_rng(0)
    source = rng.uniform(-2, 2, (90, 3))
    target = source + np.repeat([[5.0, 0, 0], [0, 9, 0]], [60, 30], axis=0)
    found = ransac(source, target, 0.02, hypotheses=4)
    assert [int(one.inliers.sum()) for one in found[:2]] == [60, 30]
    np.testing.assert_allclose(found[0].motion[:3, 3], [5, 0, 0], atol=1e-9)
    np.testing.assert_allclose(found[1].motion[:3, 3], [0, 9, 0], atol=1e-9)


def test_nothing_to_find():
    assert ransac(np.zeros((2, 3)), np.zeros((2, 3)), 0.1) == []
    assert ransac(np.zeros((9, 3)), np.zeros((9, 3)), 0.1) == []
    with pytest.raises(ValueError, match=r"must correspond, got \[3, 3\] and \[4, 3\]"):
        ransac(np.zeros((3, 3)), np.zeros((4, 3)), 0.1)
    with pytest.raises(ValueError, match="threshold"):
        ransac(np.zeros((3, 3)), np.zeros((3, 3)), 0)
