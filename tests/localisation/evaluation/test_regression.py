"""Regression of poses from descriptors."""

import numpy as np
import torch
import torch.nn.functional as F

from flowmatch.localisation.evaluation.evaluate import score
from flowmatch.localisation.evaluation.regression import posenet_loss, train_regression
from tests.localisation.room import pose_at


def test_loss():
    truth = torch.tensor([[1.0, 2, 3, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1, 0]])
    output = truth + torch.tensor([[0.0, 3, 4, 0, 0, 0, 0], [0, 0, 0, 0.3, 0, 0.4, 0]])
    assert posenet_loss(output, truth, beta=2).item() == np.float32((5 + 2 * 0.5) / 2)


def test_a_smooth_path_is_learned_up_to_and_beyond_half_a_turn():
    # Descriptors that change smoothly with the pose; the turn passes 180 degrees.
    at = np.linspace(0, 1, 21)
    generator = torch.Generator().manual_seed(0)
    frequencies = torch.randn(1, 64, generator=generator)
    descriptors = F.normalize(torch.cos(torch.from_numpy(at).float()[:, None] * frequencies), dim=1)
    poses = [pose_at(2 * x, 0, 5, (0, 0, 2.8 + 0.6 * x)) for x in at]
    state = torch.random.get_rng_state()
    network = train_regression(descriptors[::2], poses[::2])
    assert torch.equal(torch.random.get_rng_state(), state)
    result = score(list(network.poses(descriptors[1::2])), poses[1::2])
    assert result.median_degrees < 5 and result.median_metres < 0.3
    again = train_regression(descriptors[::2], poses[::2])
    assert np.array_equal(again.poses(descriptors), network.poses(descriptors))
