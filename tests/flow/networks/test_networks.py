"""Flow networks: the published sizes, and the contract of all networks."""

import pytest
import torch

from flowmatch.flow.networks import (
    MODELS,
    FlowNet2,
    FlowNet2CS,
    FlowNet2CSS,
    FlowNet2SD,
    FlowNetC,
    FlowNetS,
    PyramidNet,
)
from flowmatch.flow.networks.recurrent import RecurrentPyramid

STEPS = {
    "flownets": (4, 8, 16, 32, 64),
    "flownetc": (4, 8, 16, 32, 64),
    "flownet2sd": (4, 8, 16, 32, 64),
    "flownet2cs": (4, 8, 16, 32, 64),
    "flownet2css": (4, 8, 16, 32, 64),
    "flownet2": (1, 2, 4),
    "pyramid": (1, 4, 4, 8, 8, 16, 16, 32, 32),
    "recurrent-pyramid": (1, 2, 2, *(4,) * 3, *(8,) * 8, *(16,) * 4, *(32,) * 4),
    "raft": (1, 1),  # one for each iteration
    "raft-small": (1, 1, 1),
}
SMALL = {
    "flownets": {"width": 1 / 16},
    "flownetc": {"width": 1 / 16},
    "flownet2sd": {"width": 1 / 16},
    "flownet2cs": {"width": 1 / 16},
    "flownet2css": {"width": 1 / 16},
    "flownet2": {"width": 1 / 16},
    "pyramid": {},
    "recurrent-pyramid": {},
    "raft": {"iterations": 2},
    "raft-small": {"iterations": 3},
}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("network", "width", "expected"),
    [
        (FlowNetS, 1, 38_676_506),  # the released FlowNet2-S
        (FlowNetC, 1, 39_175_298),  # the released FlowNet2-C
        (FlowNet2SD, 1, 45_371_666),
        (FlowNet2CS, 1, 77_870_620),
        (FlowNet2CSS, 1, 116_565_942),
        (FlowNet2, 1, 162_518_834),
        (FlowNetS, 3 / 8, 5_462_666),
        (FlowNetC, 3 / 8, 5_768_758),
    ],
)
def test_published_size(network, width, expected):
    with torch.device("meta"):
        assert parameters(network(width=width)) == expected


def test_compact_size():
    assert parameters(PyramidNet()) == 708_275
    assert parameters(RecurrentPyramid()) == 1_109_824


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(64, 64), (16, 16), (17, 90), (65, 33)], ids=str)
def test_contract(name, size, device):
    """Any size from 16 px on; finest flow first; sizes halve, rounded up; gradients reach all.

    In training a network returns all of its flows; otherwise it may return the first only.
    """
    model = MODELS[name](**SMALL[name]).to(device)
    pair = torch.rand(2, 2, 3, *size, device=device)
    with torch.no_grad():
        assert model.eval()(*pair)[0].shape == (
            2,
            2,
            *(-(-side // STEPS[name][0]) for side in size),
        )
    # The layers that compare an initial flow have no gradient without one.
    initial = [model.to_grid(torch.ones_like(pair[0, :, :2]))] if hasattr(model, "to_grid") else []
    flows = model.train()(*pair, *initial)
    for flow, step in zip(flows, STEPS[name], strict=True):
        assert flow.shape == (2, 2, -(-size[0] // step), -(-size[1] // step))
        assert flow.isfinite().all()
    sum(flow.square().sum() for flow in flows).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("first", "second"),
    [((1, 3, 15, 64), (1, 3, 15, 64)), ((1, 3, 64, 64), (1, 3, 64, 65)), ((1, 1, 64, 64),) * 2],
)
def test_refuses(name, first, second):
    with pytest.raises(ValueError, match=r"same shape, H and W >= 16, got"):
        MODELS[name](**SMALL[name])(torch.rand(first), torch.rand(second))


@pytest.mark.parametrize("name", MODELS)
def test_padding_does_not_show(name):
    """An image whose size fits has the same flow alone and in a batch."""
    model = MODELS[name](**SMALL[name]).eval()
    first, second = torch.rand(2, 2, 3, 64, 128)
    together, alone = model(first, second)[0], model(first[:1], second[:1])[0]
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["pyramid", "recurrent-pyramid"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_pyramids_of_half_types(name, dtype):
    """Similarities and flow stay float32, and the flow differs by rounding only."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    pair = torch.rand(2, 1, 3, 64, 64).to(dtype)
    with torch.no_grad():
        exact = model(*(image.float() for image in pair))[0]
        rounded = model.to(dtype)(*pair)[0]
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().mean() < 0.1 * exact.abs().mean()


@pytest.mark.parametrize("name", MODELS)
def test_flow_is_float32_under_autocast(name):
    with torch.autocast("cpu", torch.bfloat16):
        flows = MODELS[name](**SMALL[name])(*torch.rand(2, 1, 3, 64, 64))
    assert all(flow.dtype == torch.float32 for flow in flows)
