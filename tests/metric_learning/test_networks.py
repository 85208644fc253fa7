"""Backbones and embedding networks."""

import pytest
import torch

from flowmatch.metric_learning.networks import EmbeddingNet, ResNet, resnet18, resnet50


def torchvision_names(blocks, convolutions):
    """Return the keys of the state of torchvision's ResNets in order, without ``fc``."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["conv1.weight", *(f"bn1.{entry}" for entry in norm)]
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            at = f"layer{stage}.{block}"
            for i in range(1, convolutions + 1):
                names += [f"{at}.conv{i}.weight", *(f"{at}.bn{i}.{entry}" for entry in norm)]
            # A block that changes width or stride; the first stage of ResNet-18 changes neither.
            if block == 0 and (stage > 1 or convolutions == 3):
                names.append(f"{at}.downsample.0.weight")
                names += [f"{at}.downsample.1.{entry}" for entry in norm]
    return names


def test_resnets_have_the_published_parameters():
    # Parameters of torchvision's models, minus 512 or 2048 times 1000 + 1000 of the classifier.
    for make, total, features in ((resnet18, 11_689_512, 512), (resnet50, 25_557_032, 2048)):
        with torch.device("meta"):
            network = make()
        count = sum(p.numel() for p in network.parameters())
        assert count == total - 1000 * (features + 1)
    for make, blocks, convolutions in ((resnet18, (2, 2, 2, 2), 2), (resnet50, (3, 4, 6, 3), 3)):
        with torch.device("meta"):
            assert list(make().state_dict()) == torchvision_names(blocks, convolutions)
    with torch.device("meta"):
        deep = resnet50().state_dict()
    assert tuple(deep["layer1.0.downsample.0.weight"].shape) == (256, 64, 1, 1)
    assert tuple(deep["layer3.5.conv3.weight"].shape) == (1024, 256, 1, 1)
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 2"):
        ResNet((1, 1, 1, 1), deep=False, channels=2)


def test_resnet_repeats_gray_channels():
    torch.manual_seed(0)
    network = resnet18().eval()
    gray = torch.rand(1, 1, 40, 50)
    assert network(gray).shape == (1, 512, 2, 2)
    torch.testing.assert_close(network(gray), network(gray.expand(-1, 3, -1, -1)))


def test_frozen_norms_keep_their_statistics():
    for frozen in (True, False):
        network = EmbeddingNet("small", 4, channels=1, frozen_norm=frozen).train()
        before = network.backbone.layers[1].running_mean.clone()
        network(torch.rand(8, 1, 8, 8))
        assert torch.equal(before, network.backbone.layers[1].running_mean) == frozen
    with pytest.raises(ValueError, match="backbone must be one of small, tiny, resnet18, resnet50"):
        EmbeddingNet("vgg", 4)


def test_parts_of_backbones_are_consecutive():
    for backbone, side in (("small", 8), ("resnet18", 64)):
        network = EmbeddingNet(backbone, 4).eval().backbone
        pictures = torch.rand(1, 3, side, side)
        x, (parts_, widths) = network.prepare(pictures), network.parts()
        for part, width in zip(parts_, widths, strict=True):
            x = part(x)
            assert x.shape[1] == width
        torch.testing.assert_close(x, network(pictures))
