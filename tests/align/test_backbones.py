"""Backbones, and their input: edges independent of the sign of their contrast."""

import pytest
import torch

from flowmatch.align.backbones import SmallBackbone, structure


@pytest.fixture
def image():
    return torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(0))


def test_structure_is_invariant_to_negatives_and_exchanged_colours(image):
    result = structure(image)
    assert result.shape == (1, 3, 40, 48)
    for same in (1 - image, image[:, [2, 0, 1]]):
        torch.testing.assert_close(structure(same), result, atol=1e-4, rtol=1e-4)


def test_structure_encodes_orientation():
    ramp = torch.arange(40.0).expand(1, 3, 40, 40)
    right, down = structure(ramp), structure(ramp.mT)
    centre = (0, slice(None), 20, 20)
    # cos and sin of twice 0 and of twice 90 degrees; the normalised strength is nearly 1.
    torch.testing.assert_close(right[centre], torch.tensor([1.0, 0, 1]), atol=0.05, rtol=0)
    torch.testing.assert_close(down[centre], torch.tensor([-1.0, 0, 1]), atol=0.05, rtol=0)
    diagonal = structure(ramp + ramp.mT)
    torch.testing.assert_close(diagonal[centre], torch.tensor([0.0, 1, 1]), atol=0.05, rtol=0)


def test_structure_equalises_contrast(image):
    # Uneven light: without the normalisation the dark half would be a tenth as strong.
    light = torch.linspace(0.5, 3, 48)
    dark, bright = structure(image * light * 4)[:, 2].split(24, dim=2)
    assert 0.8 < dark.mean() / bright.mean() < 1.25


def test_flat_images_give_zero_and_have_gradients():
    flat = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    result = structure(flat)
    assert result.abs().max() < 1e-2
    result.sum().backward()
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize("front", ["colour", "structure"])
def test_backbone(front, image):
    backbone = SmallBackbone(width=4, front=front)  # in training mode: normalised by the batch
    features = backbone(image)
    assert features.shape == (1, 16, 5, 6)
    same = backbone(1 - image)
    assert torch.allclose(same, features, atol=0.05) == (front == "structure")


def test_unknown_front():
    with pytest.raises(ValueError, match="front must be one of colour, structure, got 'edges'"):
        SmallBackbone(front="edges")
