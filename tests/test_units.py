"""Gradients of networks at descriptors of length 0, such as those of blank patches and pictures."""

import pytest
import torch
from torch import nn

from flowmatch.align.networks import match_volume
from flowmatch.matching.networks.deepcompare import Siam
from flowmatch.matching.networks.descriptors import HardNet, SOSNet
from flowmatch.registration.networks.base import FieldDescriptor
from flowmatch.retrieval.network import initial_network
from flowmatch.retrieval.pooling import RMAC
from flowmatch.retrieval.whitening import Whitening
from flowmatch.units import unit_vectors

LARGEST = 1e3  # F.normalize has gradients of 1e12 here


class Zeros(nn.Module):
    """Stands for layers whose output is zero, whatever the input."""

    def __init__(self, *shape):
        super().__init__()
        self.output = nn.Parameter(torch.zeros(shape))

    def forward(self, *_):
        return self.output


class Field(FieldDescriptor):
    def __init__(self, layers):
        super().__init__(8, unit=True, frames=False, detail=1.0)
        self.layers = layers

    def _describe(self, fields):
        return self.layers(fields)


def hardnet(zeros):
    network = HardNet()
    network.features = zeros
    return network(torch.rand(2, 1, 32, 32))


def sosnet(zeros):
    network = SOSNet()
    network.layers = zeros
    return network(torch.rand(2, 1, 32, 32))


def siam(zeros):
    output = zeros().flatten(1)
    return Siam(hidden=(), l2=True).compare(output, torch.ones_like(output))


def retrieval(zeros):
    network = initial_network()
    network.pooling = zeros
    return network.pooled(torch.rand(2, 3, 64, 64))


def whitening(zeros):
    return Whitening(torch.zeros(8), torch.eye(8)).apply(zeros())


CASES = {
    "hardnet": (hardnet, (2, 128, 1, 1)),
    "sosnet": (sosnet, (2, 128, 1, 1)),
    "siam": (siam, (2, 256)),
    "field": (lambda zeros: Field(zeros)(torch.rand(2, 30, 30, 30)), (2, 8)),
    "retrieval": (retrieval, (2, 8)),
    "rmac": (lambda zeros: RMAC()(zeros()), (2, 8, 6, 6)),
    "whitening": (whitening, (2, 8)),
    "align": (lambda zeros: match_volume(zeros(), zeros().detach() + 1), (1, 8, 4, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_networks_have_finite_gradients_at_zero(name):
    torch.manual_seed(0)
    run, shape = CASES[name]
    zeros = Zeros(*shape)
    output = run(zeros)
    (output * torch.randn_like(output)).sum().backward()
    assert output.isfinite().all()
    assert zeros.output.grad.isfinite().all() and zeros.output.grad.abs().max() < LARGEST


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values_are_those_of_normalize(dtype):
    vectors = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    vectors[3] = 0
    wide = vectors if dtype == torch.float64 else vectors.float()
    expected = torch.nn.functional.normalize(wide, dim=1).to(dtype)
    assert torch.equal(unit_vectors(vectors), expected)


def test_lengths_that_overflow_float16():
    x = torch.full((1, 100), 3e4, dtype=torch.float16, requires_grad=True)
    result = unit_vectors(x)
    result[0, 0].backward()
    assert result.dtype == torch.float16
    torch.testing.assert_close(result, torch.full_like(x, 0.1))
    assert x.grad.isfinite().all() and x.grad[0, 0] > 0
