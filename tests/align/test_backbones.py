"""What the backbone sees: edges, whichever way their colours go."""

import pytest
import torch

from flowmatch.align.backbones import SmallBackbone, structure


@pytest.fixture
def picture():
    return torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(0))


def test_structure_is_blind_to_negatives_and_exchanged_colours(picture):
    seen = structure(picture)
    assert seen.shape == (1, 3, 40, 48)
    for same in (1 - picture, picture[:, [2, 0, 1]]):
        torch.testing.assert_close(structure(same), seen, atol=1e-4, rtol=1e-4)


def test_structure_tells_directions():
    ramp = torch.arange(40.0).expand(1, 3, 40, 40)
    right, down = structure(ramp), structure(ramp.mT)
    middle = (0, slice(None), 20, 20)
    # cos and sin of twice 0 and of twice 90 degrees; the strength is the mean's, nearly 1.
    torch.testing.assert_close(right[middle], torch.tensor([1.0, 0, 1]), atol=0.05, rtol=0)
    torch.testing.assert_close(down[middle], torch.tensor([-1.0, 0, 1]), atol=0.05, rtol=0)
    diagonal = structure(ramp + ramp.mT)
    torch.testing.assert_close(diagonal[middle], torch.tensor([0.0, 1, 1]), atol=0.05, rtol=0)


def test_structure_brings_out_faint_parts(picture):
    # Uneven light: without the division the dark half would be a tenth as strong.
    light = torch.linspace(0.5, 3, 48)
    dark, bright = structure(picture * light * 4)[:, 2].split(24, dim=2)
    assert 0.8 < dark.mean() / bright.mean() < 1.25


def test_nothing_gives_nothing_and_has_gradients():
    flat = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    seen = structure(flat)
    assert seen.abs().max() < 1e-2
    seen.sum().backward()
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize("front", ["colour", "structure"])
def test_backbone(front, picture):
    backbone = SmallBackbone(width=4, front=front)  # in training: normalised by what comes
    features = backbone(picture)
    assert features.shape == (1, 16, 5, 6)
    same = backbone(1 - picture)
    assert torch.allclose(same, features, atol=0.05) == (front == "structure")


def test_unknown_front():
    with pytest.raises(ValueError, match="front must be one of colour, structure, got 'edges'"):
        SmallBackbone(front="edges")
