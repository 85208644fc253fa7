"""Descriptors by a backbone, against the formula."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flowmatch.retrieval import BackboneDescriber, GeM, RetrievalNet, Whitening, describe_scales


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, stride=2), torch.nn.ReLU())


def test_one_scale_is_the_formula(backbone, photo):
    descriptor = BackboneDescriber(backbone, name="t")(photo)
    image = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = backbone(image).clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)[0]
    torch.testing.assert_close(descriptor, expected / expected.norm())


def test_gray_images_and_whitening(backbone, photo):
    gray = photo[..., 0]
    describer = BackboneDescriber(backbone, name="t", scales=(1.0, 0.5), side=200)
    descriptor = describer(gray)
    assert descriptor.shape == (4,)
    assert float(descriptor.norm()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(describer(np.repeat(gray[..., None], 3, axis=2)), descriptor)
    whitening = Whitening(torch.full((4,), 0.1), torch.eye(4)[:3])
    whitened = BackboneDescriber(
        backbone, name="t", scales=(1.0, 0.5), side=200, whitening=whitening
    )(gray)
    torch.testing.assert_close(whitened, F.normalize(descriptor[:3] - 0.1, dim=0))


def test_mean_of_scales():
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    pool = GeM()
    half = F.interpolate(images, (32, 48), mode="bilinear", antialias=True)
    with torch.no_grad():
        parts = [F.normalize(pool(x), dim=1).pow(3) for x in (images, half)]
        descriptor = describe_scales(torch.nn.Identity(), pool, images, scales=(1, 0.5), power=3)
        torch.testing.assert_close(descriptor, F.normalize(sum(parts).div(2).pow(1 / 3), dim=1))
        # Sides are not reduced below 32 pixels.
        small = describe_scales(torch.nn.Identity(), pool, images, scales=(0.5, 0.1))
        limit = F.interpolate(images, (32, 32), mode="bilinear", antialias=True)
        parts = [F.normalize(pool(x), dim=1) for x in (half, limit)]
        torch.testing.assert_close(small, F.normalize(sum(parts), dim=1))


def test_describer_of_a_network(photo):
    torch.manual_seed(0)
    network = RetrievalNet(4).eval()
    describer = BackboneDescriber.of_network(network, "w 1")
    assert describer.about.startswith("backbone w 1 GeM scales=[1.0, ")
    assert describer.about.endswith("side=256 whitening=True")
    assert describer(photo).shape == (32,)
    assert describer.state() == {}
    with pytest.raises(ValueError, match="scales, power, side must be positive"):
        BackboneDescriber(network, name="t", scales=())
