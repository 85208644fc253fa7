"""FlowNet 2.0's stacks: published names and shapes, and a second, plain implementation."""

import pytest
import torch
import torch.nn.functional as F

from flowmatch.flow import FlowNet2, FlowNet2CS, FlowNet2CSS, FlowNet2SD, FlowNetC, FlowNetS

WIDTH = 1 / 16
SD = {  # outputs, inputs of convolutions; inputs, outputs of transposed ones
    "conv0.0": (64, 6), "conv1.0": (64, 64), "conv1_1.0": (128, 64), "conv2.0": (128, 128),
    "conv2_1.0": (128, 128), "conv3.0": (256, 128), "conv3_1.0": (256, 256),
    "conv4.0": (512, 256), "conv4_1.0": (512, 512), "conv5.0": (512, 512),
    "conv5_1.0": (512, 512), "conv6.0": (1024, 512), "conv6_1.0": (1024, 1024),
    "deconv5.0": (1024, 512), "deconv4.0": (1026, 256), "deconv3.0": (770, 128),
    "deconv2.0": (386, 64), "inter_conv5.0": (512, 1026), "inter_conv4.0": (256, 770),
    "inter_conv3.0": (128, 386), "inter_conv2.0": (64, 194), "predict_flow6": (2, 1024),
    "predict_flow5": (2, 512), "predict_flow4": (2, 256), "predict_flow3": (2, 128),
    "predict_flow2": (2, 64), "upsampled_flow6_to_5": (2, 2), "upsampled_flow5_to_4": (2, 2),
    "upsampled_flow4_to_3": (2, 2), "upsampled_flow3_to_2": (2, 2),
}  # fmt: skip
FUSION = {
    "conv0.0": (64, 11), "conv1.0": (64, 64), "conv1_1.0": (128, 64), "conv2.0": (128, 128),
    "conv2_1.0": (128, 128), "deconv1.0": (128, 32), "deconv0.0": (162, 16),
    "inter_conv1.0": (32, 162), "inter_conv0.0": (16, 82), "predict_flow2": (2, 128),
    "predict_flow1": (2, 32), "predict_flow0": (2, 16), "upsampled_flow2_to_1": (2, 2),
    "upsampled_flow1_to_0": (2, 2),
}  # fmt: skip


def shapes_of(layers):
    shapes = {}
    for name, channels in layers.items():
        doubles = name.startswith(("deconv", "upsampled"))
        shapes[f"{name}.weight"] = (*channels, *((4, 4) if doubles else (3, 3)))
        shapes[f"{name}.bias"] = (channels[1 if doubles else 0],)
    return shapes


def shapes_in(model):
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def below(name, shapes):
    return {f"{name}.{key}": shape for key, shape in shapes.items()}


@pytest.mark.parametrize(
    ("network", "count"), [(FlowNet2SD, 60), (FlowNet2CS, 90), (FlowNet2CSS, 132), (FlowNet2, 220)]
)
def test_published_names_and_shapes(network, count):
    with torch.device("meta"):
        shapes, alone = shapes_in(network()), (shapes_in(FlowNetC()), shapes_in(FlowNetS()))
    correction = alone[1] | {"conv1.0.weight": (64, 12, 7, 7)}
    cs = below("flownetc", alone[0]) | below("flownets_1", correction)
    css = cs | below("flownets_2", correction)
    whole = css | below("flownets_d", shapes_of(SD)) | below("flownetfusion", shapes_of(FUSION))
    expected = {FlowNet2SD: shapes_of(SD), FlowNet2CS: cs, FlowNet2CSS: css, FlowNet2: whole}
    assert shapes == expected[network]
    assert len(shapes) == count  # the number of tensors in NVIDIA's file


class Plain:
    """A second implementation of FlowNet 2.0, from tensors by name, without flowmatch."""

    def __init__(self, tensors):
        self.tensors = tensors

    def part(self, name):
        begin = f"{name}."
        return Plain({k[len(begin) :]: t for k, t in self.tensors.items() if k.startswith(begin)})

    def conv(self, x, name, stride=1):
        weight = self.tensors[f"{name}.0.weight"]
        x = F.conv2d(x, weight, self.tensors[f"{name}.0.bias"], stride, weight.shape[-1] // 2)
        return F.leaky_relu(x, 0.1)

    def chain(self, x, *names):
        """Layers whose names have no _1 halve the resolution."""
        for name in names:
            x = self.conv(x, name, 1 if "_1" in name else 2)
        return x

    def level(self, joined, level):
        """Return the prediction of a level, in the unit of the layers."""
        if f"inter_conv{level}.0.weight" in self.tensors:
            weight, bias = (self.tensors[f"inter_conv{level}.0.{k}"] for k in ("weight", "bias"))
            joined = F.conv2d(joined, weight, bias, padding=1)
        weight, bias = (self.tensors[f"predict_flow{level}.{k}"] for k in ("weight", "bias"))
        return F.conv2d(joined, weight, bias, padding=1)

    def expand(self, skips, coarsest):
        joined, flow = skips[0], self.level(skips[0], coarsest)
        for level, skip in zip(range(coarsest - 1, -1, -1), skips[1:], strict=False):
            up, deconv = f"upsampled_flow{level + 1}_to_{level}", f"deconv{level}.0"
            up = F.conv_transpose2d(
                flow, self.tensors[f"{up}.weight"], self.tensors.get(f"{up}.bias"), 2, 1
            )
            weight, bias = self.tensors[f"{deconv}.weight"], self.tensors[f"{deconv}.bias"]
            features = F.leaky_relu(F.conv_transpose2d(joined, weight, bias, 2, 1), 0.1)
            joined = torch.cat([skip, features, up], dim=1)
            flow = self.level(joined, level)
        return flow

    def contract(self, skip2, skip3):
        skip4 = self.chain(skip3, "conv4", "conv4_1")
        skip5 = self.chain(skip4, "conv5", "conv5_1")
        return self.expand(
            [self.chain(skip5, "conv6", "conv6_1"), skip5, skip4, skip3, skip2], coarsest=6
        )

    def correlated(self, a, b):
        skip2, other = (self.chain(image, "conv1", "conv2") for image in (a, b))
        f1, f2 = (self.chain(features, "conv3") for features in (skip2, other))
        H, W = f1.shape[2:]
        f2 = F.pad(f2, (20, 20, 20, 20))
        volume = [
            (f1 * f2[..., 20 + dy : 20 + dy + H, 20 + dx : 20 + dx + W]).mean(1)
            for dy in range(-20, 21, 2)
            for dx in range(-20, 21, 2)
        ]
        volume = F.leaky_relu(torch.stack(volume, dim=1), 0.1)
        joined = torch.cat([self.conv(f1, "conv_redir"), volume], dim=1)
        return self.contract(skip2, self.conv(joined, "conv3_1"))

    def simple(self, x):
        skip2 = self.chain(x, "conv1", "conv2")
        return self.contract(skip2, self.chain(skip2, "conv3", "conv3_1"))

    def small(self, a, b):
        x = self.conv(torch.cat([a, b], dim=1), "conv0")
        skip2 = self.chain(x, "conv1", "conv1_1", "conv2", "conv2_1")
        return self.contract(skip2, self.chain(skip2, "conv3", "conv3_1"))

    def fused(self, x):
        skip0 = self.conv(x, "conv0")
        skip1 = self.chain(skip0, "conv1", "conv1_1")
        return self.expand([self.chain(skip1, "conv2", "conv2_1"), skip1, skip0], coarsest=2)


def plain_warp(image, flow):
    """Warp `image` by `flow`, with the border repeated outside."""
    H, W = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    x, y = (x + flow[0, 0]).clamp(0, W - 1), (y + flow[0, 1]).clamp(0, H - 1)
    left, top = x.long().clamp(max=W - 2), y.long().clamp(max=H - 2)
    right, down = x - left, y - top
    upper = (1 - right) * image[..., top, left] + right * image[..., top, left + 1]
    lower = (1 - right) * image[..., top + 1, left] + right * image[..., top + 1, left + 1]
    return (1 - down) * upper + down * lower


def norm(x):
    return x.square().sum(dim=1, keepdim=True).sqrt()


def plain_stack(tensors, a, b, corrections):
    """Return the flow at a quarter, in the unit of the last network's layers."""
    plain = Plain(tensors)
    flow = plain.part("flownetc").correlated(a, b)
    for name in corrections:
        large = F.interpolate(20 * flow, scale_factor=4, mode="bilinear")
        warped = plain_warp(b, large)
        inputs = torch.cat([a, b, warped, large / 20, norm(a - warped)], dim=1)
        flow = plain.part(name).simple(inputs)
    return flow


def plain_whole(tensors, a, b):
    """Return the flow at full resolution, in pixels."""
    css = 20 * plain_stack(tensors, a, b, ["flownets_1", "flownets_2"])
    sd = Plain(tensors).part("flownets_d").small(a, b) / 20
    sd, css = (flow.repeat_interleave(4, 2).repeat_interleave(4, 3) for flow in (sd, css))
    errors = [norm(a - plain_warp(b, flow)) for flow in (sd, css)]
    return (
        Plain(tensors)
        .part("flownetfusion")
        .fused(torch.cat([a, sd, css, norm(sd), norm(css), *errors], dim=1))
    )


def eventful(network):
    """Return a network in eval mode with flows of several pixels and biases other than 0."""
    model = network(width=WIDTH).eval()
    for key, tensor in model.state_dict().items():
        if key.endswith("bias"):
            tensor.uniform_(-0.1, 0.1)
        if key.endswith("predict_flow2.bias") and "fusion" not in key:
            # 6 to the right and 3 up, in pixels of the full resolution.
            tensor += torch.tensor([6.0, -3.0]) * (20 if "flownets_d" in key else 1 / 20)
    return model


@pytest.mark.parametrize("network", [FlowNet2SD, FlowNet2CS, FlowNet2CSS, FlowNet2])
def test_equals_plain_restatement(network):
    """Every flow is in pixels of its own resolution: a quarter's is 4 times as long at full."""
    model = eventful(network)
    pair = F.interpolate(torch.rand(2, 3, 16, 32), scale_factor=4, mode="bilinear")
    first, second = pair[:, None]
    mean = torch.stack([first, second]).mean(dim=(0, 3, 4))[..., None, None]
    a, b = first - mean, second - mean
    tensors = model.state_dict()
    if network is FlowNet2SD:
        expected = Plain(tensors).small(a, b) / 20 / 4
    elif network is FlowNet2:
        expected = plain_whole(tensors, a, b)
    else:
        names = ["flownets_1", "flownets_2"][: 1 if network is FlowNet2CS else 2]
        expected = plain_stack(tensors, a, b, names) * 20 / 4
    with torch.no_grad():
        flow = model(first, second)[0]
    torch.testing.assert_close(flow, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_fusion_sees_the_flows_of_both():
    """Constant flows of the two networks before the fusion reach it in full-resolution pixels."""
    model = FlowNet2(width=WIDTH).eval()
    for part, bias in ((model.flownets_2, [0.2, -0.1]), (model.flownets_d, [40.0, 20.0])):
        torch.nn.init.zeros_(part.predict_flow2.weight)
        part.predict_flow2.bias.data = torch.tensor(bias)
    inputs = []
    model.flownetfusion.conv0.register_forward_pre_hook(lambda _, given: inputs.extend(given))
    with torch.no_grad():
        model(*torch.rand(2, 1, 3, 64, 64))
    expected = torch.tensor([2, 1, 4, -2, 5**0.5, 20**0.5]).view(1, 6, 1, 1).expand(1, 6, 64, 64)
    torch.testing.assert_close(inputs[0][:, 3:9], expected)


@pytest.mark.parametrize("network", [FlowNet2SD, FlowNet2CS, FlowNet2CSS, FlowNet2])
def test_refuses_no_width(network):
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        network(width=0)
