"""Preparation of scans for registration."""

import numpy as np
import pytest

from flowmatch.registration import MODELS, RegisterOptions
from flowmatch.registration.prepare import prepare_scan


def test_the_number_of_keypoints_is_limited():
    cloud = np.random.default_rng(0).uniform(size=(300, 3))
    network = MODELS["slim"](1, 3)
    few = RegisterOptions(keypoints=5)
    assert prepare_scan(cloud, 0.1, network, few).descriptors.shape == (5, 3)
    assert prepare_scan(cloud, 0.1, "fpfh", few).descriptors.shape[0] == 5
    assert prepare_scan(cloud, 0.1, "fpfh").descriptors.shape[0] > 200


def test_an_unknown_descriptor_raises():
    cloud = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(ValueError, match="module or 'fpfh', got 'sift'"):
        prepare_scan(cloud, 0.1, "sift")
