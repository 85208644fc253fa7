"""Networks: correlation, shapes, initial estimates, custom backbones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowmatch.align.networks import AlignNet, Regression, global_correlation, match_volume
from flowmatch.align.transforms import AFFINE, THIN_PLATE, identity
from flowmatch.ops import correlation

TINY = {"size": 96, "width": 4, "channels": (8, 8)}


def test_global_correlation_is_the_operator_by_position():
    """ops.correlation divides by the channels and orders by displacement, row by row."""
    C, h, w, radius = 5, 3, 4, 3
    first, second = torch.randn(2, 1, C, h, w)
    volume = global_correlation(first, second)
    by_shift = correlation(first, second, radius=radius, stride=1) * C
    side = 2 * radius + 1
    assert volume.shape == (1, h * w, h, w)
    for y in range(h):
        for x in range(w):
            for y2 in range(h):
                for x2 in range(w):
                    k = (y2 - y + radius) * side + (x2 - x + radius)
                    value = volume[0, y2 * w + x2, y, x].item()
                    assert value == pytest.approx(by_shift[0, k, y, x].item(), abs=1e-5)


def test_maps_of_different_sizes_and_errors():
    assert global_correlation(torch.rand(2, 3, 4, 5), torch.rand(2, 3, 6, 7)).shape == (2, 42, 4, 5)
    with pytest.raises(ValueError, match="same B and C"):
        global_correlation(torch.rand(2, 3, 4, 5), torch.rand(2, 4, 4, 5))


def test_matches_of_a_position_have_unit_length():
    volume = match_volume(torch.randn(2, 8, 5, 5), torch.randn(2, 8, 5, 5))
    assert volume.min() == 0
    torch.testing.assert_close(volume.norm(dim=1), torch.ones(2, 5, 5))


def test_the_best_match_finds_a_shift():
    features = torch.randn(1, 64, 6, 6)
    volume = match_volume(features, features.roll((1, 2), (2, 3)))
    best = volume[0, :, 2, 3].argmax().item()
    assert divmod(best, 6) == (3, 5)


def test_parameter_count_of_the_paper():
    """1,626,182 for the affine regression of maps of 15 x 15."""
    network = Regression(225, 15, AFFINE)
    assert sum(p.numel() for p in network.parameters()) == 1_626_182


def test_estimates_start_near_the_identity():
    network = AlignNet(**TINY).eval()
    affine, plate = network(torch.rand(2, 3, 50, 70), torch.rand(2, 3, 96, 96))
    torch.testing.assert_close(affine, identity(AFFINE, 2), atol=0.1, rtol=0)
    torch.testing.assert_close(plate, identity(THIN_PLATE, 2), atol=0.1, rtol=0)


def test_the_second_stage_gets_the_aligned_image():
    """After a true first stage, its input is the same as for two equal images."""
    network = AlignNet(**TINY).eval()
    image = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        network.regressions[0].out.weight.zero_()
        network.regressions[0].out.bias.copy_(torch.tensor([-2.0, 0, 0, 0, 0, 0]))  # mirrors
        _, mirrored = network(image, image.flip(-1))
        network.regressions[0].out.bias.zero_()
        _, same = network(image, image)
    torch.testing.assert_close(mirrored, same, atol=1e-5, rtol=1e-5)


def test_a_custom_backbone():
    backbone = nn.Sequential(nn.Conv2d(3, 7, 8, 8), nn.BatchNorm2d(7))
    before = backbone[1].running_mean.clone()
    network = AlignNet(("thin-plate",), size=88, channels=(4, 4), backbone=backbone)
    assert backbone.training
    assert backbone[1].running_mean.equal(before)
    assert [theta.shape for theta in network(*torch.rand(2, 2, 3, 40, 40))] == [(2, 18)]


class CellPixels(nn.Module):
    """A backbone whose features are the pixels of a cell: distinctive without training."""

    def forward(self, image):
        return F.pixel_unshuffle(image, 8)


def test_the_fit_head_finds_a_shift_without_training():
    noise = torch.rand(1, 3, 144, 144, generator=torch.Generator().manual_seed(0))
    first, second = noise[..., 8:136, 16:], noise[..., :128, :128]  # 8 px down, 16 px left
    network = AlignNet(size=128, head="fit", backbone=CellPixels()).eval()
    with torch.no_grad():
        network.log_sharpness.fill_(4.0)
        affine, plate = network(first, second)
    expected = torch.tensor([[1, 0, 2 / 8, 0, 1, 1 / 8]])
    torch.testing.assert_close(affine, expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(plate, identity(THIN_PLATE), atol=0.02, rtol=0)


def test_scores_index_the_second_image_first():
    noise = torch.rand(1, 3, 40, 32, generator=torch.Generator().manual_seed(0))
    network = AlignNet(size=32, head="fit", backbone=CellPixels()).eval()
    scores = network.scores(noise[..., 8:, :], noise[..., :32, :])
    assert scores.shape == (1, 16, 16)
    assert scores[0].argmax(0)[:12].tolist() == list(range(4, 16))  # a row further down


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": ("affine", "shear")}, "stages must be among affine, thin-plate"),
        ({"stages": ()}, "stages must be among"),
        ({"size": 80}, "maps must be 11 x 11 at least, got 10 x 10"),
        ({"head": "guess"}, "head must be one of regression, fit, got 'guess'"),
        ({"size": 32, "backbone": nn.Flatten()}, "the backbone must give maps"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        AlignNet(**{**TINY, **arguments})


def test_every_parameter_has_a_gradient():
    network = AlignNet(**TINY)
    stages = network(*torch.rand(2, 2, 3, 96, 96))
    sum(theta.square().sum() for theta in stages).backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name
