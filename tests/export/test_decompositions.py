"""Operators in terms of PyTorch's own: the same values as the operators."""

import pytest
import torch

from flowmatch.export import decompositions
from flowmatch.ops import correlation, correlation_lookup


@pytest.mark.parametrize("radius, stride", [(0, 1), (1, 1), (2, 3), (4, 1)])
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (12, 7)])
def test_correlation(size, radius, stride):
    f1, f2 = torch.randn(2, 2, 6, *size, dtype=torch.float64)
    expected = correlation(f1, f2, radius, stride)
    torch.testing.assert_close(decompositions.correlation(f1, f2, radius, stride), expected)


@pytest.mark.parametrize("radius, offset", [((0, 4), (0, -4)), ((2, 1), (-9, 3)), ((1, 1), (5, 7))])
def test_correlation_around_an_offset(radius, offset):
    f1, f2 = torch.randn(2, 2, 6, 5, 9, dtype=torch.float64)
    expected = correlation(f1, f2, radius, 2, offset=offset)
    actual = decompositions.correlation(f1, f2, radius, 2, False, offset)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("radius", [0, 1, 3])
@pytest.mark.parametrize("size, size2", [((4, 5), (4, 5)), ((3, 2), (7, 9)), ((2, 3), (1, 1))])
def test_correlation_lookup(size, size2, radius):
    f1 = torch.randn(2, 6, *size, dtype=torch.float64)
    f2 = torch.randn(2, 6, *size2, dtype=torch.float64)
    coords = 14 * torch.rand(2, 2, *size, dtype=torch.float64) - 3  # also outside
    for scale in (1.0, 0.5):
        expected = correlation_lookup(f1, f2, coords * scale, radius)
        actual = decompositions.correlation_lookup(
            f1.permute(0, 2, 3, 1), f2.permute(0, 2, 3, 1), coords, scale, scale, radius, radius
        )
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("halve_rows", [True, False])
def test_correlation_lookup_pyramid(halve_rows):
    f1, f2 = torch.randn(2, 1, 4, 8, 6, dtype=torch.float64)
    levels = [f2, f2[:, : 2 if halve_rows else 4, ::2]]
    coords = 8 * torch.rand(1, 2, 4, 8, dtype=torch.float64)
    arguments = (f1, levels, coords, halve_rows, 1, 2)
    expected = torch.ops.flowmatch.correlation_lookup_pyramid(*arguments)
    actual = decompositions.correlation_lookup_pyramid(*arguments)
    torch.testing.assert_close(actual, expected)


def test_every_operator_of_the_networks_is_there():
    ops = torch.ops.flowmatch
    table = decompositions.decompositions()
    lookups = ops.correlation_lookup.default, ops.correlation_lookup_pyramid.default
    assert table.keys() == {ops.correlation.default, *lookups}
