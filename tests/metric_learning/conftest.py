"""Fixtures of the similarity tests."""

import pytest
import torch


@pytest.fixture
def batch():
    """Nine embeddings of 4 dimensions, float64, and labels of 3 classes."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])
    return torch.randn(9, 4, generator=generator, dtype=torch.float64), labels
