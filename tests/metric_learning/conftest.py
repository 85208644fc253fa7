"""Fixtures of the metric learning tests."""

import numpy as np
import pytest
import torch

from flowmatch.metric_learning.data.datasets import digits
from flowmatch.metric_learning.data.images import LabelledImages


@pytest.fixture
def batch():
    """Nine float64 embeddings of dimension 4, and their labels of 3 classes."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])
    return torch.randn(9, 4, generator=generator, dtype=torch.float64), labels


@pytest.fixture(scope="session")
def digit_parts():
    """Digits for training, and a quarter of the test pictures."""
    train, test = digits().split_pictures()
    few = np.arange(0, len(test), 4)
    return train, LabelledImages(test.pictures[few], test.labels[few], test.classes)
