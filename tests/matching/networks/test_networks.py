"""Patch networks: published sizes, and the interface that all of them share."""

import kornia.feature
import pytest
import torch

from flowmatch.matching.networks import (
    COMPARATORS,
    DESCRIPTORS,
    MODELS,
    DenseNetwork,
    HardNet,
    HyNet,
    PseudoSiam,
    Siam,
    SiameseNetwork,
    SiamSPP,
    SiamTwoStream,
    SOSNet,
    TFeat,
    TwoChannel,
    TwoChannelDeep,
    TwoChannelTwoStream,
)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def patches_of(network, count):
    return torch.rand(count, 1, network.patch_size, network.patch_size)


@pytest.mark.parametrize(
    ("network", "arguments", "expected"),
    [
        (TwoChannel, {"hidden": ()}, 913_377),  # as released
        (TwoChannel, {}, 979_169),  # as in the paper and its training code
        (TwoChannelDeep, {}, 1_673_665),
        (TwoChannelTwoStream, {}, 2_353_153),
        (Siam, {}, 908_416 + 263_169),
        (Siam, {"l2": True}, 908_416),
        (PseudoSiam, {}, 2 * 908_416 + 263_169),
        (SiamTwoStream, {}, 2 * 1_200_416 + 1_050_625),
        (SiamTwoStream, {"l2": True}, 2 * 1_200_416),
        (SiamSPP, {}, 908_416 + (2 * 16 * 256 * 512 + 512) + 513),
        (HardNet, {}, 1_334_560),
        (SOSNet, {}, 1_334_560),
        (TFeat, {}, 599_808),
    ],
)
def test_published_size(network, arguments, expected):
    with torch.device("meta"):
        assert parameters(network(**arguments)) == expected


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("2ch", [20, 10, 6, 3, 1]),
        ("2ch-deep", [21, 19, 17, 15, 8, 6, 4, 2]),
        ("2ch-2stream", [28, 14, 12, 6, 4, 2] * 2),
        ("siam", [20, 10, 6, 3, 1]),
        ("siam-2stream", [15, 7, 5, 3, 1] * 2),
    ],
)
def test_layers_have_the_published_sizes(name, sizes):
    seen = []
    network = COMPARATORS[name]().eval()
    backbone = network.branch if isinstance(network, SiameseNetwork) else network
    for layer in backbone.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.MaxPool2d):
            layer.register_forward_hook(lambda _, __, output: seen.append(output.shape[-1]))
    if isinstance(network, SiameseNetwork):
        network.features(patches_of(network, 1))
        seen = sorted(seen, key=seen.index) if name == "siam" else seen
    else:
        network(patches_of(network, 1), patches_of(network, 1))
    assert seen == sizes


@pytest.mark.parametrize("name", MODELS)
def test_contract(name):
    network = MODELS[name]().eval()
    patches, others = patches_of(network, 3), patches_of(network, 3)
    inputs = (patches,) if name in DESCRIPTORS else (patches, others)
    result = network(*inputs)
    assert result.shape == ((3, network.dim) if name in DESCRIPTORS else (3,))
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    # Each patch or pair is independent of the batch, and results differ.
    alone = torch.cat([network(*(x[k : k + 1] for x in inputs)) for k in range(3)])
    torch.testing.assert_close(alone, result, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(result[0], result[1], rtol=1e-3, atol=0)
    assert network(*(x[:0] for x in inputs)).shape == (0, *result.shape[1:])
    # All parameters have gradients.
    network.train()
    network(*inputs).square().sum().backward()
    still = [key for key, p in network.named_parameters() if p.grad is None]
    assert still == []
    for wrong in (patches[0], patches.expand(-1, 3, -1, -1), (255 * patches).byte()):
        with pytest.raises(ValueError, match=r"expected gray patches in \[0, 1\]"):
            network(*(wrong for _ in inputs))
    if "spp" not in name:
        with pytest.raises(ValueError, match=f"{network.patch_size} x {network.patch_size}"):
            network(*(x[..., 1:] for x in inputs))


@pytest.mark.parametrize("name", [name for name in DESCRIPTORS if name != "tfeat"])
def test_descriptors_have_unit_length(name):
    network = DESCRIPTORS[name]().eval()
    lengths = network(patches_of(network, 4)).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(4))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "hynet"])
def test_brightness_is_removed(name):
    network = MODELS[name]().double().eval()
    inputs = [0.5 * patches_of(network, 2).double() for _ in range(1 + (name in COMPARATORS))]
    brighter = network(*(x + 0.25 for x in inputs))
    torch.testing.assert_close(brighter, network(*inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in COMPARATORS if name.endswith("-l2")])
def test_l2_is_the_distance_of_unit_vectors(name):
    network = COMPARATORS[name]().eval()
    first, second = patches_of(network, 3), patches_of(network, 3)
    a = torch.nn.functional.normalize(network.features(first), dim=1)
    b = torch.nn.functional.normalize(network.features(second, second=True), dim=1)
    torch.testing.assert_close(network(first, second), -(a - b).square().sum(1).sqrt())
    if not name.startswith("pseudo"):
        assert (network(first, first) == 0).all()


def test_branches_are_shared_except_in_pseudo_siam():
    first, second = torch.rand(2, 1, 64, 64), torch.rand(2, 1, 64, 64)
    siam, pseudo = Siam(), PseudoSiam()
    assert torch.equal(siam.features(first), siam.features(first, second=True))
    assert not torch.equal(pseudo.features(first), pseudo.features(first, second=True))
    expected = siam.decision(torch.cat([siam.features(first), siam.features(second)], 1))[:, 0]
    torch.testing.assert_close(siam(first, second), expected)


def test_spp_takes_any_size():
    network = SiamSPP(l2=True).eval()
    small, large = torch.rand(1, 1, 20, 40), torch.rand(1, 1, 150, 70)
    assert network.branch(small).shape == network.branch(large).shape == (1, 4096)
    assert network(small, large).shape == (1,)
    # At 64 x 64 all cells hold the same feature.
    cells = network.branch.features(torch.rand(1, 1, 64, 64)).view(256, 16)
    assert (cells == cells[:, :1]).all()
    with pytest.raises(ValueError, match="grid must be positive, got 0"):
        SiamSPP(grid=0)


def test_siam_needs_decision_layers():
    with pytest.raises(ValueError, match="hidden must name at least one width, or l2 be set"):
        Siam(hidden=())


@pytest.mark.parametrize("name", [n for n in DESCRIPTORS if hasattr(DESCRIPTORS[n], "dense")])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (101, 83), (96, 135)])
def test_dense_equals_patch_by_patch(name, height, width):
    network = DESCRIPTORS[name]().double().eval()
    assert isinstance(network, DenseNetwork)
    S, stride = network.patch_size, network.stride
    image = torch.rand(2, 1, height, width, dtype=torch.float64)
    dense = network.dense(image)
    rows, columns = (height - S) // stride + 1, (width - S) // stride + 1
    assert dense.shape == (2, network.dim, rows, columns)
    for i, j in ((0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3)):
        place = (..., slice(i * stride, i * stride + S), slice(j * stride, j * stride + S))
        if name == "tfeat":  # normalised by the image's mean and deviation
            prepared = torch.nn.functional.instance_norm(image)[place]
            alone = network.descr(network.features[1:](prepared).flatten(1))
        else:
            centred = (image - image.mean(dim=(2, 3), keepdim=True)) * 255 / 256
            alone = torch.nn.functional.normalize(network.extract(centred[place]).flatten(1), dim=1)
        torch.testing.assert_close(dense[..., i, j], alone, rtol=1e-9, atol=1e-11)


def test_patches_without_contrast_have_finite_descriptors():
    for name, make in DESCRIPTORS.items():
        network = make().eval()
        flat = torch.full((2, 1, network.patch_size, network.patch_size), 0.5)
        assert network(flat).isfinite().all(), name


# ---- An independent implementation of the same networks ----------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (HardNet, kornia.feature.HardNet),
        (SOSNet, kornia.feature.SOSNet),
        (TFeat, kornia.feature.TFeat),
        (HyNet, kornia.feature.HyNet),
    ],
)
def test_equals_kornia(ours, theirs):
    reference, network = theirs(pretrained=False), ours()
    reference.train()
    reference(torch.rand(16, 1, 32, 32))  # statistics other than 0 and 1
    for p in reference.parameters():
        p.data += 0.02 * torch.randn_like(p)
    network.load_state_dict(reference.state_dict())
    reference.eval(), network.eval()
    patches = torch.rand(5, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(patches), reference(patches), rtol=1e-4, atol=2e-5)
