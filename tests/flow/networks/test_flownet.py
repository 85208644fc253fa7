"""FlowNetS and FlowNetC: published sizes, names and units."""

import pytest
import torch

from flowmatch.flow.networks import (
    FlowNetC,
    FlowNetS,
)


def decoder_shapes(upsampling_bias):
    """Return the shapes O, I, k, k of the tensors of both networks, from conv4 on."""
    shapes = {}
    for name, outputs, inputs in (
        ("conv4", 512, 256), ("conv4_1", 512, 512), ("conv5", 512, 512), ("conv5_1", 512, 512),
        ("conv6", 1024, 512), ("conv6_1", 1024, 1024),
    ):  # fmt: skip
        shapes[f"{name}.0.weight"] = (outputs, inputs, 3, 3)
        shapes[f"{name}.0.bias"] = (outputs,)
    joined = {6: 1024, 5: 1026, 4: 770, 3: 386, 2: 194}
    for level, inputs in joined.items():
        shapes[f"predict_flow{level}.weight"] = (2, inputs, 3, 3)
        shapes[f"predict_flow{level}.bias"] = (2,)
    for level, outputs in {5: 512, 4: 256, 3: 128, 2: 64}.items():
        shapes[f"deconv{level}.0.weight"] = (joined[level + 1], outputs, 4, 4)
        shapes[f"deconv{level}.0.bias"] = (outputs,)
        shapes[f"upsampled_flow{level + 1}_to_{level}.weight"] = (2, 2, 4, 4)
        if upsampling_bias:
            shapes[f"upsampled_flow{level + 1}_to_{level}.bias"] = (2,)
    return shapes


@pytest.mark.parametrize(
    ("network", "encoder", "upsampling_bias"),
    [
        (FlowNetS, {"conv1": (64, 6, 7), "conv2": (128, 64, 5), "conv3": (256, 128, 5),
                    "conv3_1": (256, 256, 3)}, False),
        (FlowNetC, {"conv1": (64, 3, 7), "conv2": (128, 64, 5), "conv3": (256, 128, 5),
                    "conv_redir": (32, 256, 1), "conv3_1": (256, 473, 3)}, True),
    ],
)  # fmt: skip
def test_published_names_and_shapes(network, encoder, upsampling_bias):
    expected = decoder_shapes(upsampling_bias)
    for name, (outputs, inputs, kernel) in encoder.items():
        expected[f"{name}.0.weight"] = (outputs, inputs, kernel, kernel)
        expected[f"{name}.0.bias"] = (outputs,)
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in network().state_dict().items()}
    assert shapes == expected


def test_flownet_predicts_twentieths_of_full_resolution_pixels():
    """A prediction of 1 is 20 pixels of the full resolution."""
    model = FlowNetS(width=1 / 16)
    torch.nn.init.zeros_(model.predict_flow2.weight)
    torch.nn.init.ones_(model.predict_flow2.bias)
    flow = model(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))[0]
    torch.testing.assert_close(flow, torch.full((1, 2, 16, 16), 20.0 / 4))


def test_flownetc_joins_redirected_features_first():
    """32 redirected channels are concatenated before 441 correlations."""
    model = FlowNetC(width=1 / 16)
    outputs = []
    model.conv3_1.register_forward_hook(lambda module, inputs, output: outputs.append(inputs[0]))
    model.conv_redir.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    model(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))
    redirected, joined = outputs
    assert joined.shape[1] == redirected.shape[1] + 441
    assert torch.equal(joined[:, : redirected.shape[1]], redirected)


def test_flownetc_keeps_conv2_of_the_first_image():
    model = FlowNetC(width=1 / 16)
    first, second = torch.rand(2, 1, 3, 64, 64)
    skips = []
    decode = model.decode
    model.decode = lambda skip2, skip3: (skips.append(skip2), decode(skip2, skip3))[1]
    model(first, second)
    mean = torch.stack([first, second]).mean(dim=(0, 3, 4))[..., None, None]
    torch.testing.assert_close(skips[0], model.conv2(model.conv1(first - mean)))
