"""Published checkpoints: recognised, complete, with the same flow; checks of untrusted files."""

import os
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flowmatch.flow import RAFT, FlowNetC, FlowNetS, RAFTSmall, load, load_external, save_weights
from flowmatch.flow.external import convert_checkpoint, read_checkpoint

ENCODER = ("conv1", "conv2", "conv3", "conv3_1", "conv4", "conv4_1", "conv5", "conv5_1", "conv6",
           "conv6_1")  # fmt: skip
MEAN = [0.45, 0.432, 0.411]


def quick(shapes):
    """Return tensors of these shapes that take little space: each is one number, expanded."""
    return {key: torch.rand(()).expand(shape) for key, shape in shapes.items()}


def flownet_shapes(correlated):
    """Return the shapes of the weights without biases, which all publishers share."""
    shapes = {
        "conv1.0": (64, 3 if correlated else 6, 7, 7), "conv2.0": (128, 64, 5, 5),
        "conv3.0": (256, 128, 5, 5), "conv3_1.0": (256, 473 if correlated else 256, 3, 3),
        "conv4.0": (512, 256, 3, 3), "conv4_1.0": (512, 512, 3, 3),
        "conv5.0": (512, 512, 3, 3), "conv5_1.0": (512, 512, 3, 3),
        "conv6.0": (1024, 512, 3, 3), "conv6_1.0": (1024, 1024, 3, 3),
        "deconv5.0": (1024, 512, 4, 4), "deconv4.0": (1026, 256, 4, 4),
        "deconv3.0": (770, 128, 4, 4), "deconv2.0": (386, 64, 4, 4),
        "predict_flow6": (2, 1024, 3, 3), "predict_flow5": (2, 1026, 3, 3),
        "predict_flow4": (2, 770, 3, 3), "predict_flow3": (2, 386, 3, 3),
        "predict_flow2": (2, 194, 3, 3), "upsampled_flow6_to_5": (2, 2, 4, 4),
        "upsampled_flow5_to_4": (2, 2, 4, 4), "upsampled_flow4_to_3": (2, 2, 4, 4),
        "upsampled_flow3_to_2": (2, 2, 4, 4),
    }  # fmt: skip
    if correlated:
        shapes["conv_redir.0"] = (32, 256, 1, 1)
    return {f"{name}.weight": shape for name, shape in shapes.items()}


def with_bias_shapes(shapes, layers):
    """Add the biases of layers by prefix; outputs of transposed convolutions come second."""
    return shapes | {
        key.replace("weight", "bias"): (shape[1 if key.startswith(("deconv", "ups")) else 0],)
        for key, shape in shapes.items()
        if key.startswith(layers)
    }


def with_norm_shapes(shapes):
    norms = {
        key.replace(".0.weight", f".1.{part}"): () if part == "num_batches_tracked" else shape[:1]
        for key, shape in shapes.items()
        if key.startswith("conv")
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    return shapes | norms


PINARD, NVIDIA = ("conv",), ("conv", "deconv", "predict_flow")
FLOWNETS = {
    "pinard-s": (with_bias_shapes(flownet_shapes(False), PINARD), 33, FlowNetS, MEAN),
    "pinard-c": (with_bias_shapes(flownet_shapes(True), PINARD), 35, FlowNetC, MEAN),
    "pinard-s-bn": (with_norm_shapes(flownet_shapes(False)), 73, FlowNetS, MEAN),
    "pinard-c-bn": (with_norm_shapes(flownet_shapes(True)), 79, FlowNetC, MEAN),
    "nvidia-s": (with_bias_shapes(flownet_shapes(False), NVIDIA), 42, FlowNetS, None),
    "nvidia-c": (with_bias_shapes(flownet_shapes(True), (*NVIDIA, "ups")), 48, FlowNetC, None),
    "nvidia-c-bn": (
        with_bias_shapes(with_norm_shapes(flownet_shapes(True)), ("deconv", "predict_flow", "ups")),
        92, FlowNetC, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOWNETS)
def test_flownets_are_recognised(name, tmp_path):
    shapes, count, network, mean = FLOWNETS[name]
    assert len(shapes) == count  # the number of tensors in the publisher's own files
    tensors = quick(shapes)
    torch.save({"epoch": 3, "state_dict": tensors, "best_EPE": 1.9}, tmp_path / "c.pth.tar")
    model = load_external(tmp_path / "c.pth.tar")
    assert type(model) is network
    assert not model.training
    assert model.mean == (None if mean is None else tuple(mean))
    state = model.state_dict()
    for key in ("deconv3.0.weight", "predict_flow4.weight", "upsampled_flow5_to_4.weight"):
        assert torch.equal(state[key], tensors[key])
    for key, value in state.items():
        if key.endswith("bias") and not key.startswith("conv"):
            assert torch.equal(value, tensors.get(key, torch.zeros(()).expand(value.shape)))


@pytest.mark.parametrize(("network", "name"), [(FlowNetS, "s"), (FlowNetC, "c")])
def test_batch_norms_are_folded(network, name, tmp_path):
    """The flow is that with torch's batch norms between convolution and ReLU, in eval mode."""
    normed = network(mean=MEAN).eval()
    for layer in (*ENCODER, *(["conv_redir"] if name == "c" else [])):
        old = normed.get_submodule(f"{layer}.0")
        conv = nn.Conv2d(
            old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False
        )
        norm = nn.BatchNorm2d(old.out_channels)
        for tensor in (norm.weight.data, norm.running_var):
            tensor.uniform_(0.5, 2)
        for tensor in (norm.bias.data, norm.running_mean):
            tensor.uniform_(-0.3, 0.3)
        normed.set_submodule(layer, nn.Sequential(conv, norm, nn.LeakyReLU(0.1)).eval())
    state = {key: t for key, t in normed.state_dict().items()
             if key.startswith("conv") or not key.endswith("bias")}  # fmt: skip
    torch.save({"state_dict": state, "div_flow": 20.0}, tmp_path / "bn.pth")
    model = load_external(tmp_path / "bn.pth")
    pair = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(model(*pair), normed(*pair), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max())


def random_flownets():
    """FlowNetPytorch's FlowNetS without batch norms, with a flow of a few pixels."""
    state = FlowNetS().state_dict()
    return {key: t for key, t in state.items() if key.startswith("conv") or "bias" not in key}


def test_unit_mean_and_order_of_channels(tmp_path):
    """Half the `div_flow` halves the flow; the mean is subtracted; `bgr` swaps red and blue."""
    state = random_flownets()
    torch.save({"state_dict": state, "div_flow": 20}, tmp_path / "20.pth")
    torch.save({"state_dict": state, "div_flow": 10}, tmp_path / "10.pth")
    whole, half = (load_external(tmp_path / f"{unit}.pth") for unit in (20, 10))
    swapped = load_external(tmp_path / "20.pth", bgr=True)
    bare = FlowNetS(mean=[0, 0, 0]).eval()
    bare.load_state_dict(whole.state_dict())
    first, second = torch.rand(2, 1, 3, 64, 64)
    mean = torch.tensor(MEAN).view(3, 1, 1)
    with torch.no_grad():
        flows = whole(first, second)
        for flow, other in zip(flows, half(first, second), strict=True):
            torch.testing.assert_close(other, flow / 2)
        torch.testing.assert_close(bare(first - mean, second - mean), flows)
        swapped.mean = whole.mean[::-1]
        torch.testing.assert_close(swapped(first.flip(1), second.flip(1)), flows)


def princeton(model):
    """Rename RAFT's weights to Princeton's names, layer by layer."""
    large = isinstance(model, RAFT)
    layers = {"update_block.flow_head.conv1": "update_block.flow_head.conv1",
              "update_block.flow_head.conv2": "update_block.flow_head.conv2",
              "update_block.motion_encoder.convcorr1.0": "update_block.encoder.convc1",
              "update_block.motion_encoder.convflow1.0": "update_block.encoder.convf1",
              "update_block.motion_encoder.convflow2.0": "update_block.encoder.convf2",
              "update_block.motion_encoder.conv.0": "update_block.encoder.conv"}  # fmt: skip
    for gate in "zrq":
        ours = f"update_block.recurrent_block.convgru1.conv{gate}"
        layers[ours] = f"update_block.gru.conv{gate}{1 if large else ''}"
        if large:
            layers[ours.replace("gru1", "gru2")] = f"update_block.gru.conv{gate}2"
    if large:
        layers |= {"update_block.motion_encoder.convcorr2.0": "update_block.encoder.convc2",
                   "mask_predictor.convrelu.0": "update_block.mask.0",
                   "mask_predictor.conv": "update_block.mask.2"}  # fmt: skip
    for ours, theirs in (("feature_encoder", "fnet"), ("context_encoder", "cnet")):
        layers[f"{ours}.convnormrelu.0"] = f"{theirs}.conv1"
        layers[f"{ours}.convnormrelu.1"] = f"{theirs}.norm1"
        layers[f"{ours}.conv"] = f"{theirs}.conv2"
        for block in (f"layer{layer}.{half}" for layer in (1, 2, 3) for half in (0, 1)):
            for n in (1, 2, 3):
                layers[f"{ours}.{block}.convnormrelu{n}.0"] = f"{theirs}.{block}.conv{n}"
                layers[f"{ours}.{block}.convnormrelu{n}.1"] = f"{theirs}.{block}.norm{n}"
            for n in (0, 1):
                layers[f"{ours}.{block}.downsample.{n}"] = f"{theirs}.{block}.downsample.{n}"
    named = {}
    for key, tensor in model.state_dict().items():
        layer, _, end = key.rpartition(".")
        named[f"module.{layers[layer]}.{end}"] = tensor
    # A downsampling block's norm is in the file twice, under two names.
    again = {key.replace("downsample.1", "norm3"): t for key, t in named.items()
             if "downsample.1" in key}  # fmt: skip
    return named | again


@pytest.mark.parametrize(("network", "count"), [(RAFT, 179), (RAFTSmall, 106)])
def test_princeton_raft(network, count, tmp_path):
    expected = network()
    for key, tensor in expected.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    state = princeton(expected)
    assert len(state) == count  # the number in Princeton's own files
    torch.save(state, tmp_path / "raft.pth")
    model = load_external(tmp_path / "raft.pth")
    assert type(model) is network
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[key]), key


@pytest.mark.parametrize("network", [RAFT, RAFTSmall])
@pytest.mark.parametrize("suffix", [".pth", ".tar", ".safetensors"])
def test_torchvision_raft(network, suffix, tmp_path):
    state = network().state_dict()
    path = tmp_path / f"raft{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:  # .tar: as torch wrote before version 1.6
        torch.save(state, path, _use_new_zipfile_serialization=suffix == ".pth")
    weights = read_checkpoint(path)
    assert type(weights.network) is network
    assert weights.source == f"torchvision's raft_{'large' if network is RAFT else 'small'}"
    assert all(torch.equal(t, state[key]) for key, t in weights.network.state_dict().items())


def test_loaded_weights_outlive_the_file(tmp_path):
    state = RAFTSmall().state_dict()
    torch.save(state, tmp_path / "raft.pth")
    model = load_external(tmp_path / "raft.pth")
    with (tmp_path / "raft.pth").open("r+b") as file:
        file.write(bytes((tmp_path / "raft.pth").stat().st_size))
    assert all(torch.equal(t, state[key]) for key, t in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_convert_round_trip(tmp_path, dtype):
    """Converted files keep RAFT's counters and a FlowNet's mean."""
    model = RAFT()
    model.get_buffer("context_encoder.convnormrelu.1.num_batches_tracked").fill_(100_000)
    torch.save(model.state_dict(), tmp_path / "raft.pth")
    convert_checkpoint(tmp_path / "raft.pth", tmp_path / "raft.safetensors", dtype=dtype)
    state = load(weights=tmp_path / "raft.safetensors").state_dict()
    for key, tensor in model.state_dict().items():
        if "tracked" not in key:
            assert torch.equal(state[key], tensor.to(dtype).float())
    save_weights(tmp_path / "w.safetensors", model, "raft")  # 100 000 is no float16
    counter = "context_encoder.convnormrelu.1.num_batches_tracked"
    assert load(weights=tmp_path / "w.safetensors").state_dict()[counter] == 100_000
    torch.save(quick(FLOWNETS["pinard-s"][0]), tmp_path / "s.pth")
    convert_checkpoint(tmp_path / "s.pth", tmp_path / "s.safetensors")
    assert load(weights=tmp_path / "s.safetensors").mean == tuple(MEAN)
    with pytest.raises(ValueError, match="must be called .safetensors"):
        convert_checkpoint(tmp_path / "s.pth", tmp_path / "s.pth")
    with pytest.raises(ValueError, match="flowmatch's own"):
        load_external(tmp_path / "s.safetensors")


def test_missing_and_unexpected_keys_have_the_file_s_names(tmp_path):
    state = princeton(RAFTSmall())
    del state["module.fnet.layer2.0.conv1.weight"]
    state["module.extra"] = torch.zeros(1)
    state["module.update_block.gru.convz.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "raft.pth")
    expected = (r"does not fit Princeton's RAFT small: extra is unexpected; "
                r"fnet.layer2.0.conv1.weight is missing; update_block.gru.convz.bias is "
                r"\[3\], not \[96\]$")  # fmt: skip
    with pytest.raises(ValueError, match=expected):
        load_external(tmp_path / "raft.pth")


def test_unknown_checkpoints_are_named(tmp_path):
    torch.save({"state_dict": {"backbone.weight": torch.zeros(1)}}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"is none of .*; its keys begin with backbone"):
        load_external(tmp_path / "c.pth")


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_nothing_is_unpickled_but_tensors(tmp_path):
    state = RAFTSmall().state_dict() | {"harm": Harmful(tmp_path / "done")}
    for new in (True, False):
        torch.save(state, tmp_path / "c.pth", _use_new_zipfile_serialization=new)
        with pytest.raises(ValueError, match=r"not a complete file of tensors only: .*mkdir"):
            load_external(tmp_path / "c.pth")
    assert not (tmp_path / "done").exists()


def test_huge_shapes_are_refused_before_memory_is_taken(tmp_path):
    """A file of one number that claims a shape of 4e18."""
    state = RAFTSmall().state_dict()
    state["feature_encoder.conv.weight"] = torch.zeros(1).expand(2_000_000_000, 2_000_000_000)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"conv.weight is \[2000000000, 2000000000\], not \[128"):
        load_external(tmp_path / "c.pth")


def test_compressed_archives_are_refused(tmp_path):
    torch.save({"fnet.a": torch.zeros(1_000_000)}, tmp_path / "c.pth")
    with zipfile.ZipFile(tmp_path / "c.pth") as whole, \
            zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:  # fmt: skip
        for part in whole.infolist():
            bomb.writestr(part.filename, whole.read(part))
    assert (tmp_path / "bomb.pth").stat().st_size < 20_000
    with pytest.raises(ValueError, match="it is compressed"):
        load_external(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "must hold weights by name, got list"),
        ({}, "must hold weights by name"),
        ({"state_dict": {"fnet.a": 3}}, "'fnet.a' must be a tensor, got int"),
        ({"fnet.a": torch.zeros(2, 2).to_sparse()}, "'fnet.a' must be a tensor"),
        ({"fnet.a": torch.zeros(1, device="meta")}, "'fnet.a' must be a tensor"),
        ({"fnet.a": torch.zeros(1, dtype=torch.int32)}, "fnet.a must be floats, got torch.int32"),
        ({"state_dict": {"a": torch.zeros(1)}, "div_flow": -1}, "positive number, got -1"),
        ({"state_dict": {"a": torch.zeros(1)}, "div_flow": "x"}, "positive number, got 'x'"),
    ],
)
def test_refuses_other_content(content, message, tmp_path):
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=message):
        load_external(tmp_path / "c.pth")


def test_refuses_files_that_are_not_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_external(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="neither a zip archive nor a sequence of pickles"):
        load_external(tmp_path / "text.pth")
    (tmp_path / "text.safetensors").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="not a whole .safetensors file"):
        load_external(tmp_path / "text.safetensors")
    state = RAFTSmall().state_dict()
    state["feature_encoder.conv.bias"][3] = torch.nan
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(
        ValueError, match="must be finite, these are not: feature_encoder.conv.bias"
    ):
        load_external(tmp_path / "nan.pth")
    whole = (tmp_path / "nan.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not a complete file of tensors only"):
        load_external(tmp_path / "cut.pth")
