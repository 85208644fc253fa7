"""Occlusion by forward-backward consistency."""

import numpy as np
import pytest
import torch

from flowmatch.flow import find_occlusion
from flowmatch.flow.synthetic import SyntheticFlow

METHODS = ["consistency", "coverage"]


@pytest.mark.parametrize("method", METHODS)
def test_find_occlusion_worked_by_hand(method):
    """A square of 4 columns moves right by 4 over a still background."""
    forward, backward = np.zeros((2, 8, 24, 2), np.float32)
    forward[:, 8:12] = [4, 0]
    backward[:, 12:16] = [-4, 0]
    expected = np.zeros((8, 24), bool)
    expected[:, 12:16] = True  # background in the first frame, covered in the second
    assert (find_occlusion(forward, backward, method=method) == expected).all()
    uncovered = np.zeros((8, 24), bool)
    uncovered[:, 8:12] = True
    assert (find_occlusion(backward, forward, method=method) == uncovered).all()
    tensors = (torch.from_numpy(f).permute(2, 0, 1)[None] for f in (forward, backward))
    assert (find_occlusion(*tensors, method=method)[0].numpy() == expected).all()


@pytest.mark.parametrize("method", METHODS)
def test_unknown_flow_is_not_known_to_match(method):
    flow, unknown = np.zeros((4, 4, 2), np.float32), np.full((4, 4, 2), np.nan, np.float32)
    assert find_occlusion(flow, unknown, method=method).all()
    assert find_occlusion(unknown, flow, method=method).all()
    assert not find_occlusion(flow, flow, method=method).any()


def test_coverage_does_not_depend_on_the_forward_flow():
    """A wrong flow is inconsistent, but its pixel is seen in the second frame all the same."""
    wrong, still = np.zeros((2, 6, 8, 2), np.float32)
    wrong[2, 3] = [3, 1]
    assert find_occlusion(wrong, still)[2, 3]
    assert not find_occlusion(wrong, still, method="coverage").any()


def test_coverage_is_more_precise_on_rendered_pairs():
    """Also with exact flows: borders of objects are inconsistent, because warping blurs them."""
    pair = SyntheticFlow(size=(96, 128), seed=3, backward=True)[1]
    right = {}
    for method in METHODS:
        mask = find_occlusion(pair.flow, pair.backward, method=method)
        right[method] = (mask & pair.occluded).sum() / mask.sum()
    assert right["coverage"] > right["consistency"]


def test_refuses_an_unknown_method():
    flow = np.zeros((4, 4, 2), np.float32)
    with pytest.raises(ValueError, match="must be 'consistency' or 'coverage', got 'range'"):
        find_occlusion(flow, flow, method="range")
