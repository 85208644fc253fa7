"""RAFT: the published sizes and names, and each step against a direct computation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowmatch.flow.networks import RAFT, RAFTSmall

BOTH = [RAFT, RAFTSmall]


def encoder_shapes(prefix, channels, outputs, narrow, batch_norm):
    """Return names and shapes of an encoder, by the paper's figure 7 and torchvision's names."""
    shapes = {}

    def conv(name, o, i, k, norm=batch_norm):
        shapes[f"{prefix}.{name}.0.weight"], shapes[f"{prefix}.{name}.0.bias"] = (o, i, k, k), (o,)
        if norm:
            for end in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{prefix}.{name}.1.{end}"] = (o,)
            shapes[f"{prefix}.{name}.1.num_batches_tracked"] = ()

    conv("convnormrelu", channels[0], 3, 7)
    inputs = channels[0]
    for layer, c in enumerate(channels[1:], 1):
        for block, i in enumerate((inputs, c)):
            at = f"layer{layer}.{block}"
            if narrow:
                conv(f"{at}.convnormrelu1", c // 4, i, 1)
                conv(f"{at}.convnormrelu2", c // 4, c // 4, 3)
                conv(f"{at}.convnormrelu3", c, c // 4, 1)
            else:
                conv(f"{at}.convnormrelu1", c, i, 3)
                conv(f"{at}.convnormrelu2", c, c, 3)
            if layer > 1 and block == 0:
                conv(f"{at}.downsample", c, i, 1)
        inputs = c
    shapes[f"{prefix}.conv.weight"] = (outputs, inputs, 1, 1)
    shapes[f"{prefix}.conv.bias"] = (outputs,)
    return shapes


LARGE_REST = {
    "update_block.motion_encoder.convcorr1.0": (256, 324, 1, 1),
    "update_block.motion_encoder.convcorr2.0": (192, 256, 3, 3),
    "update_block.motion_encoder.convflow1.0": (128, 2, 7, 7),
    "update_block.motion_encoder.convflow2.0": (64, 128, 3, 3),
    "update_block.motion_encoder.conv.0": (126, 256, 3, 3),
    **{f"update_block.recurrent_block.convgru1.conv{g}": (128, 384, 1, 5) for g in "zrq"},
    **{f"update_block.recurrent_block.convgru2.conv{g}": (128, 384, 5, 1) for g in "zrq"},
    "update_block.flow_head.conv1": (256, 128, 3, 3),
    "update_block.flow_head.conv2": (2, 256, 3, 3),
    "mask_predictor.convrelu.0": (256, 128, 3, 3),
    "mask_predictor.conv": (576, 256, 1, 1),
}
SMALL_REST = {
    "update_block.motion_encoder.convcorr1.0": (96, 196, 1, 1),
    "update_block.motion_encoder.convflow1.0": (64, 2, 7, 7),
    "update_block.motion_encoder.convflow2.0": (32, 64, 3, 3),
    "update_block.motion_encoder.conv.0": (80, 128, 3, 3),
    **{f"update_block.recurrent_block.convgru1.conv{g}": (96, 242, 3, 3) for g in "zrq"},
    "update_block.flow_head.conv1": (128, 96, 3, 3),
    "update_block.flow_head.conv2": (2, 128, 3, 3),
}


@pytest.mark.parametrize(
    ("network", "parameters", "channels", "outputs", "rest"),
    [
        (RAFT, 5_257_536, (64, 64, 96, 128), (256, 256), LARGE_REST),
        (RAFTSmall, 990_162, (32, 32, 64, 96), (128, 160), SMALL_REST),
    ],
)
def test_published_size_and_names(network, parameters, channels, outputs, rest):
    with torch.device("meta"):
        model = network()
    assert sum(p.numel() for p in model.parameters()) == parameters
    narrow = network is RAFTSmall
    expected = encoder_shapes("feature_encoder", channels, outputs[0], narrow, False)
    expected |= encoder_shapes("context_encoder", channels, outputs[1], narrow, not narrow)
    for name, shape in rest.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == expected


@pytest.mark.parametrize("network", BOTH)
def test_correlation_is_that_of_all_pairs_column_by_column(network):
    """The first layer over the correlation equals that of the all-pairs volume of the paper."""
    model = network(iterations=1).eval()
    first, second = torch.rand(2, 1, 3, 128, 136)
    initial_flow = 4 * torch.rand(1, 2, 16, 17) - 2
    inputs_of_second = []
    layer = model.update_block.motion_encoder.convcorr2
    layer.register_forward_hook(lambda module, inputs, output: inputs_of_second.append(inputs[0]))
    with torch.no_grad():
        model(first, second, initial_flow)
        f1, f2 = (model.feature_encoder(2 * image - 1)[0] for image in (first, second))
        volume = torch.einsum("cyx,cvu->yxvu", f1, f2) / len(f1) ** 0.5
        volume = volume.reshape(16 * 17, 1, 16, 17)
        y, x = torch.meshgrid(torch.arange(16.0), torch.arange(17.0), indexing="ij")
        around = torch.arange(-model.sizes.radius, model.sizes.radius + 1.0)
        windows = []
        for level in range(4):
            h, w = volume.shape[2:]
            # u changes slowest.
            u = (x + initial_flow[0, 0]).view(-1, 1, 1) / 2**level + around[
                :, None
            ]  # u changes slowest
            v = (y + initial_flow[0, 1]).view(-1, 1, 1) / 2**level + around
            at = torch.stack(torch.broadcast_tensors(2 * u / (w - 1) - 1, 2 * v / (h - 1) - 1), -1)
            windows.append(F.grid_sample(volume, at, align_corners=True).flatten(1))
            volume = F.avg_pool2d(volume, 2)
        windows = torch.cat(windows, 1).view(1, 16, 17, -1).permute(0, 3, 1, 2)
        expected = model.update_block.motion_encoder.convcorr1(windows)
    torch.testing.assert_close(inputs_of_second[0], expected, rtol=1e-3, atol=1e-4)


def test_recurrent_unit_is_torch_s():
    """On one pixel, the unit is `nn.GRUCell` with a reversed update gate."""
    unit = RAFT(iterations=1).update_block.recurrent_block["convgru1"]
    hidden, x = torch.randn(1, 128, 1, 1), torch.randn(1, 256, 1, 1)
    z, r, q = (conv.weight[:, :, 0, 2] for conv in (unit.convz, unit.convr, unit.convq))
    bz, br, bq = (conv.bias for conv in (unit.convz, unit.convr, unit.convq))
    h, v = hidden.flatten(1), x.flatten(1)
    cell = nn.GRUCell(256, 128)
    with torch.no_grad():
        cell.weight_ih[:256] = torch.cat([r, -z])[:, 128:]
        cell.weight_hh[:256] = torch.cat([r, -z])[:, :128]
        cell.bias_ih[:256], cell.bias_hh[:256] = torch.cat([br, -bz]), 0
        gates = (h @ cell.weight_hh[:128].T + v @ cell.weight_ih[:128].T + br).sigmoid()
        # GRUCell resets after the product, RAFT before it: the product is set to RAFT's.
        cell.weight_hh[256:], cell.bias_ih[256:] = 0, bq
        cell.weight_ih[256:] = q[:, 128:]
        cell.bias_hh[256:] = ((gates * h) @ q[:, :128].T / gates)[0]
    expected = cell(v, h)
    torch.testing.assert_close(unit(hidden, x).flatten(1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", BOTH)
def test_a_constant_step_adds_up(network):
    """A head that always predicts (1, -2) adds 8 and -16 pixels in each iteration."""
    model = network(iterations=3)
    head = model.update_block.flow_head["conv2"]
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([1.0, -2.0]))
    pair = torch.rand(2, 1, 3, 144, 160)
    step = torch.tensor([8.0, -16.0]).view(2, 1, 1)
    for flow, count in zip(model(*pair), (3, 2, 1), strict=True):
        # The upsampling pads with zeros, as the published weights expect.
        inside = flow[0, :, 8:-8, 8:-8]
        torch.testing.assert_close(inside, (count * step).expand_as(inside), rtol=1e-4, atol=1e-3)
    only, grid = model.eval().estimate(*pair, torch.ones(1, 2, 18, 20))
    assert len(only) == 1
    torch.testing.assert_close(grid, (3 * step / 8 + 1).expand(1, 2, 18, 20))


def test_further_iterations_continue_from_the_flow():
    """The flow on the grid from `estimate` is the initial flow of further iterations."""
    model = RAFTSmall(iterations=2).eval()
    pair = torch.rand(2, 1, 3, 128, 128)
    with torch.no_grad():
        flows, grid = model.estimate(*pair)
        torch.testing.assert_close(
            flows[0], 8 * F.interpolate(grid, (128, 128), mode="bilinear", align_corners=True)
        )
        model.iterations = 1
        assert not torch.allclose(model(*pair, grid)[0], model(*pair)[0])


@pytest.mark.parametrize("network", BOTH)
def test_small_images_are_padded_on_all_sides(network):
    """An image of 30 x 50 is centred in one of 128 x 128 with repeated borders."""
    model = network(iterations=2).eval()
    pair = torch.rand(2, 1, 3, 30, 50)
    padded = F.pad(pair[:, 0], (39, 39, 49, 49), mode="replicate")[:, None]
    with torch.no_grad():
        flow = model(*pair)[0]
        torch.testing.assert_close(flow, model(*padded)[0][..., 49:79, 39:89])


def test_to_grid_averages_what_is_known():
    model = RAFTSmall(iterations=1)
    flow = torch.zeros(1, 2, 128, 128)
    flow[:, 0, :8, :4], flow[:, :, :8, 4:8] = 16, torch.nan  # half a grid pixel is unknown
    flow[:, :, 8:16, :8] = torch.inf
    grid = model.to_grid(flow)
    assert grid.shape == (1, 2, 16, 16)
    assert grid[0, :, 0, 0].tolist() == [2, 0]
    assert grid.isfinite().all()
    assert grid[0, :, 1:].abs().max() == 0
    odd = model.to_grid(torch.full((1, 2, 130, 140), 8.0))
    torch.testing.assert_close(odd, torch.ones(1, 2, 17, 18))


def test_refuses():
    model = RAFTSmall(iterations=1)
    pair = torch.rand(2, 1, 3, 128, 144)
    with pytest.raises(ValueError, match=r"grid, \[1, 2, 16, 18\], got \[1, 2, 16, 16\]"):
        model(*pair, torch.zeros(1, 2, 16, 16))
    for iterations in (0, 1001):
        with pytest.raises(ValueError, match=f"iterations must be 1 to 1000, got {iterations}"):
            RAFT(iterations=iterations)


def test_float64():
    model = RAFTSmall(iterations=1).double().eval()
    assert model(*torch.rand(2, 1, 3, 32, 32, dtype=torch.float64))[0].dtype == torch.float64
