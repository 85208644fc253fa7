"""Descriptor networks, their fields, and their files."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.spatial.transform import Rotation

from flowmatch.registration import MODELS, Spin, ThreeDMatch, describe_points, field_patches
from flowmatch.registration.store import load, save_weights


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_published_network_has_the_published_parameters():
    with torch.device("meta"):
        network = MODELS["3dmatch"]()
    assert parameters(network) == 14_311_488
    shapes = [tuple(layer.weight.shape[:2]) for layer in network.convolutions]
    assert shapes == [
        (64, 1), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (512, 256), (512, 512),
    ]  # fmt: skip
    assert network(torch.empty(2, 30, 30, 30, device="meta")).shape == (2, 512)


def test_slim_network_is_small_and_of_unit_length():
    network = MODELS["slim"]()
    assert 2 * parameters(network) < 2**21  # bytes in float16
    out = network(torch.rand(2, 1, 30, 30, 30))
    assert out.shape == (2, 32)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(2))


def test_layers_are_applied_in_the_published_order():
    network = ThreeDMatch(2, 4).double()
    x = torch.rand(1, 1, 30, 30, 30, dtype=torch.float64)
    expected, sides = x, []
    for k, layer in enumerate(network.convolutions):
        expected = torch.relu(layer(expected))
        if k == 1:
            expected = torch.nn.functional.max_pool3d(expected, 2, 2)
        sides.append(expected.shape[-1])
    assert sides == [28, 13, 11, 9, 7, 5, 3, 1]
    torch.testing.assert_close(network(x), network.feature(expected).flatten(1))


def test_aligned_fields_are_invariant_to_rotation():
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.3, 0.3, (9000, 3))
    points[:, 2] = points[:, 0] ** 3 * 9 + points[:, 1] ** 2 + points[:, 0] * 0.3
    keys = points[:5] * 0.3
    keys[:, 2] = keys[:, 0] ** 3 * 9 + keys[:, 1] ** 2 + keys[:, 0] * 0.3
    rotation = Rotation.random(random_state=0).as_matrix()
    pair = [(points, keys), (points @ rotation.T + 7, keys @ rotation.T + 7)]
    aligned = [field_patches(p, k, frames=True) for p, k in pair]
    plain = [field_patches(p, k) for p, k in pair]
    # Not zero: the grids of down-sampling differ.
    assert (aligned[0] - aligned[1]).abs().mean() < 0.02
    assert (plain[0] - plain[1]).abs().mean() > 0.05
    assert aligned[0].max() > 0.9


def test_spin_is_small_and_of_unit_length():
    network = MODELS["spin"]()
    assert parameters(network) == 427_936
    out = network.eval()(torch.rand(2, 1, 30, 30, 30))
    torch.testing.assert_close(out.norm(dim=1), torch.ones(2))


def test_unrolled_fields_are_read_around_the_normal():
    """Heights are channels, radius and angle are the axes."""
    network = Spin(2, 4)
    z, y, x = torch.meshgrid(*[torch.arange(30.0) - 14.5] * 3, indexing="ij")
    unrolled = []
    network.levels.register_forward_pre_hook(lambda module, inputs: unrolled.append(inputs[0]))
    for field in (z, torch.hypot(x, y), x):
        network.eval()(field[None])
    heights, radii, along = (part[0] for part in unrolled)
    torch.testing.assert_close(heights[:, 3, 5], torch.arange(30.0) - 14.5)
    circles = torch.arange(14) + 0.5
    torch.testing.assert_close(radii[7, 3:].mean(1), circles[3:], atol=0.03, rtol=0)
    torch.testing.assert_close(along[0, :, 0], circles)  # the first direction is x
    torch.testing.assert_close(along[0, :, 18], -circles)


def test_spin_is_invariant_to_rotation_about_the_normal():
    torch.manual_seed(0)
    lumps = torch.rand(6, 1, 5, 5, 5)
    fields = torch.nn.functional.interpolate(lumps, (30, 30, 30), mode="trilinear")[:, 0]
    network = Spin(8, 16)
    with torch.no_grad():
        for _ in range(20):
            network(fields)  # statistics for batch normalisation
        out = network.eval()(fields)
        half, quarter, tilted = (
            network(fields.rot90(times, axes))
            for times, axes in ((2, (-2, -1)), (1, (-2, -1)), (1, (-3, -1)))
        )
    distance = (out[:, None] - out[None]).norm(dim=2)[~torch.eye(6, dtype=torch.bool)].mean()
    assert (out - half).norm(dim=1).max() < 0.01 * distance
    assert (out - quarter).norm(dim=1).mean() < 0.3 * distance  # pooling steps are of 20 degrees
    assert (out - tilted).norm(dim=1).mean() > 0.7 * distance


def test_batches_do_not_change_descriptors():
    rng = np.random.default_rng(0)
    cloud = rng.uniform(0, 0.5, (800, 3))
    network = MODELS["slim"](2, 4)
    steps = []
    descriptors = describe_points(
        cloud, cloud[:7], model=network, batch=3, progress=lambda *step: steps.append(step)
    )
    torch.testing.assert_close(descriptors, describe_points(cloud, cloud[:7], model=network))
    assert steps == [("describe", done, 7) for done in (3, 6, 7)]
    assert describe_points(cloud, np.zeros((0, 3)), model=network).shape == (0, 4)


def test_weights_are_saved_in_half_precision(tmp_path):
    network = MODELS["slim"](2, 4)
    save_weights(tmp_path / "w.safetensors", network, "slim", {"channels": 2, "dimensions": 4})
    loaded = load(weights=tmp_path / "w.safetensors")
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], tensor.half().float())
    assert not loaded.training


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "does not say its network; give one of 3dmatch, slim, spin"),
        (
            {"model": "slim", "arguments": '{"channels": 900000000}'},
            "900000000 is beyond 65536",
        ),
        ({"model": "slim", "arguments": '{"layers": 2}'}, "cannot be built"),
        ({"model": "slim", "arguments": "{"}, "arguments of its network are damaged"),
    ],
)
def test_invalid_weights_raise(metadata, message, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors", metadata)
    with pytest.raises(ValueError, match=message):
        load(weights=tmp_path / "w.safetensors")


def test_errors():
    with pytest.raises(ValueError, match=r"\[K, 30, 30, 30\], got \(1, 1, 29, 30, 30\)"):
        MODELS["slim"](1, 1)(torch.zeros(1, 29, 30, 30))
    with pytest.raises(ValueError, match="dimensions and detail must be positive, got 0 and 5.0"):
        ThreeDMatch(2, 0)
    for network in (ThreeDMatch, Spin):
        with pytest.raises(ValueError, match="channels must be positive, got 0"):
            network(0)
    with pytest.raises(ValueError, match="must be a network here, got 'fpfh'"):
        describe_points(np.zeros((3, 3)), np.zeros((1, 3)), model="fpfh")
