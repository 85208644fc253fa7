"""Occlusion by forward-backward consistency."""

import numpy as np
import torch

from flowmatch.flow import (
    find_occlusion,
)


def test_find_occlusion_worked_by_hand():
    """A square of 4 columns moves right by 4 over a still background."""
    forward, backward = np.zeros((2, 8, 24, 2), np.float32)
    forward[:, 8:12] = [4, 0]
    backward[:, 12:16] = [-4, 0]
    expected = np.zeros((8, 24), bool)
    expected[:, 12:16] = True  # background in the first frame, covered in the second
    assert (find_occlusion(forward, backward) == expected).all()
    uncovered = np.zeros((8, 24), bool)
    uncovered[:, 8:12] = True
    assert (find_occlusion(backward, forward) == uncovered).all()
    tensors = (torch.from_numpy(f).permute(2, 0, 1)[None] for f in (forward, backward))
    assert (find_occlusion(*tensors)[0].numpy() == expected).all()


def test_unknown_flow_is_not_known_to_match():
    flow, unknown = np.zeros((4, 4, 2), np.float32), np.full((4, 4, 2), np.nan, np.float32)
    assert find_occlusion(flow, unknown).all()
    assert not find_occlusion(flow, flow).any()
