"""Published weights: golden files give the right network, other files give clear errors."""

import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmatch.matching.external import load_external
from flowmatch.matching.networks import (
    HardNet,
    HyNet,
    PseudoSiam,
    Siam,
    SiamBranch,
    SiamTwoStream,
    SOSNet,
    TFeat,
    TwoChannel,
    TwoChannelDeep,
    TwoChannelTwoStream,
    TwoStreamBranch,
)
from flowmatch.matching.torch7 import parse_t7

# ---- Files as the authors' programs write them -------------------------------------------------


def integer(value):
    return struct.pack("<i", value)


def string(text):
    return integer(len(text)) + text.encode()


def pairs(network):
    flat = [p.detach().numpy().astype("<f4") for p in network.parameters()]
    return list(zip(flat[::2], flat[1::2], strict=True))


def bin_file(name, layers):
    content = string(name)
    for k, (weight, bias) in enumerate(layers):
        content += integer(3 * k + 1) + integer(weight.size) + integer(bias.size)
        content += weight.tobytes() + bias.tobytes()
    return content


class T7:
    """Writer of the format of Torch7's File.lua."""

    def __init__(self):
        self.count = 0

    def index(self):
        self.count += 1
        return integer(self.count)

    def value(self, value):
        if isinstance(value, dict):
            items = [self.value(x) for pair in value.items() for x in pair]
            return integer(3) + self.index() + integer(len(value)) + b"".join(items)
        if isinstance(value, str):
            return integer(2) + string(value)
        if isinstance(value, np.ndarray):
            return self.tensor(value)
        return integer(1) + struct.pack("<d", value)

    def head(self, name):
        return integer(4) + self.index() + string("V 1") + string(name)

    def tensor(self, array):
        strides = [s // array.itemsize for s in array.strides]
        content = self.head("torch.FloatTensor") + integer(array.ndim)
        content += struct.pack(f"<{array.ndim}q", *array.shape)
        content += struct.pack(f"<{array.ndim}q", *strides) + struct.pack("<q", 1)
        storage = self.head("torch.FloatStorage") + struct.pack("<q", array.size)
        return content + storage + array.tobytes("A")

    def module(self, name, fields):
        return self.head(name) + self.value_of_parts(fields)

    def value_of_parts(self, fields):
        parts = [self.value(key) + content for key, content in fields.items()]
        return integer(3) + self.index() + integer(len(parts)) + b"".join(parts)

    def layer(self, weight, bias):
        fields = {"weight": self.value(weight), "bias": self.value(bias)}
        return self.module("nn.Layer", fields)

    def relu(self):
        return self.module("nn.ReLU", {"inplace": integer(5) + integer(1)})

    def container(self, name, modules):
        modules = dict(enumerate(modules, start=1))
        return self.module(name, {"modules": self.value_of_parts(modules)})


def t7_file(*branches, top):
    t7 = T7()
    parts = []
    for branch in branches:
        layers = [part for layer in branch for part in (t7.layer(*layer), t7.relu())]
        parts.append(t7.container("nn.Sequential", layers))
    modules = [t7.container("nn.Parallel", parts)] if parts else []
    return t7.container("nn.Sequential", modules + [t7.layer(*layer) for layer in top])


def same(network, expected):
    assert type(network) is type(expected)
    assert not network.training
    ours, theirs = network.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("2ch", TwoChannel(hidden=())),
        ("2chdeep", TwoChannelDeep(hidden=())),
        ("2ch2stream", TwoChannelTwoStream()),
        ("siam", Siam()),
        ("siam_desc", SiamBranch()),
        ("siam2stream", SiamTwoStream()),
        ("siam2stream_desc", TwoStreamBranch()),
    ],
)
def test_bin(tmp_path, name, network):
    path = tmp_path / "weights.bin"
    path.write_bytes(bin_file(name, pairs(network)))
    same(load_external(path), network)


def test_published_bin_sizes():
    # The released files: 3.47, 1.00, 9.16 and 4.01 MiB.
    mib = [
        round(4 * sum(p.numel() for p in network.parameters()) / 2**20, 2)
        for network in (SiamBranch(), Siam().decision, TwoStreamBranch(), SiamTwoStream().decision)
    ]
    assert mib == [3.47, 1.0, 9.16, 4.01]


def test_bin_in_two_files(tmp_path):
    desc, decision, network = tmp_path / "d.bin", tmp_path / "f.bin", Siam()
    desc.write_bytes(bin_file("siam_desc", pairs(network.branch)))
    decision.write_bytes(bin_file("siam_decision", pairs(network.decision)))
    same(load_external(desc, decision=decision), network)
    with pytest.raises(ValueError, match=r"expected siam_desc\.bin as path"):
        load_external(decision)
    with pytest.raises(ValueError, match="got siam_decision in .* with siam_decision in"):
        load_external(decision, decision=decision)


def test_invalid_bin(tmp_path):
    path = tmp_path / "weights.bin"
    content = bin_file("siam_desc", pairs(SiamBranch()))
    for wrong, reason in (
        (b"", "expected 4 more bytes at 0, 0 are left"),
        (integer(2**31 - 1), "expected 2147483647 more bytes"),
        (string("alexnet"), "got 'alexnet'"),
        (content[:-1], "more bytes"),
        (content + b"\0", "bytes for siam_desc, got"),
        (bin_file("siam_desc", pairs(TwoStreamBranch())[:3]), "expected the layers of siam_desc"),
        (content[:-4] + np.float32("nan").tobytes(), "expected finite weights"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=reason):
            load_external(path)


@pytest.mark.parametrize("hidden", [(512,), (1024,), (1024, 1024)])
def test_t7_siamese(tmp_path, hidden):
    network = Siam() if hidden == (512,) else SiamTwoStream(hidden=hidden)
    path = tmp_path / "weights.t7"
    branch = pairs(network.branch)
    path.write_bytes(t7_file(branch, branch, top=pairs(network.decision)))
    same(load_external(path), network)


@pytest.mark.parametrize("network", [TwoChannel(), TwoChannel(hidden=()), TwoChannelDeep()])
def test_t7_two_channels(tmp_path, network):
    path = tmp_path / "weights.t7"
    path.write_bytes(t7_file(top=pairs(network)))
    same(load_external(path), network)


def test_t7_pseudo_siam_and_two_streams(tmp_path):
    path = tmp_path / "weights.t7"
    pseudo = PseudoSiam()
    first, second = pairs(pseudo.branch), pairs(pseudo.second)
    path.write_bytes(t7_file(first, second, top=pairs(pseudo.decision)))
    same(load_external(path), pseudo)
    streams = TwoChannelTwoStream()
    fovea, retina = pairs(streams.fovea), pairs(streams.retina)
    path.write_bytes(t7_file(fovea, retina, top=pairs(streams.decision)))
    same(load_external(path), streams)


def test_t7_values():
    t7 = T7()
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    value = parse_t7(t7.value({"a": 1.5, 1: "text", "t": array.T.copy().T}))
    assert value["a"] == 1.5
    assert value[1.0] == "text"
    np.testing.assert_array_equal(value["t"], array)
    # A function is skipped; a table that is referenced twice is read once.
    function = integer(8) + integer(1) + string("\x1bLua") + integer(0)
    table = integer(3) + integer(2) + integer(0)
    both = integer(3) + integer(3) + integer(2)
    both += integer(2) + string("f") + function + integer(2) + string("t") + table
    assert parse_t7(both) == {"f": None, "t": {}}


def test_invalid_t7(tmp_path):
    deep = b"".join(integer(3) + integer(k) + integer(1) for k in range(1, 300))
    storage = integer(4) + integer(2) + string("V 1") + string("torch.FloatStorage")
    storage += struct.pack("<q", 1) + b"\0\0\0\0"
    tensor = integer(4) + integer(1) + string("V 1") + string("torch.FloatTensor") + integer(1)
    huge = tensor + struct.pack("<qqq", 2**40, 0, 1) + storage
    outside = tensor + struct.pack("<qqq", 1, 1, 3) + storage
    path = tmp_path / "weights.t7"
    for wrong, reason in (
        (b"", "expected 4 more bytes"),
        (integer(99), "type code from 0 to 8"),
        (deep, "at most 100 nested tables"),
        (huge, "does not fit into its storage of 1 elements"),
        (outside, "does not fit into its storage of 1 elements"),
        (integer(0), r"expected the layers of .* got 0 with"),
        (t7_file(top=pairs(SiamBranch())[:2]), "expected the layers of"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=reason):
            load_external(path)


def test_t7_modules_that_refer_to_each_other_do_not_multiply(tmp_path):
    """Each of 20 containers refers to the next 60 times."""

    def container(k):
        head = integer(4) + integer(10 * k + 1) + string("V 1") + string("nn.Sequential")
        if k == 20:
            return head + integer(0)
        head += integer(3) + integer(10 * k + 2) + integer(1) + integer(2) + string("modules")
        again = integer(4) + integer(10 * k + 11)
        head += integer(3) + integer(10 * k + 3) + integer(60)
        modules = [container(k + 1)] + [again] * 59
        return head + b"".join(T7().value(float(j)) + m for j, m in enumerate(modules, start=1))

    content = container(0)
    path = tmp_path / "weights.t7"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="at most 200 modules"):
        load_external(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), suffix=st.sampled_from([".bin", ".t7", ".pth"]))
def test_damaged_files_raise_errors(tmp_path_factory, data, suffix):
    path = tmp_path_factory.mktemp("garbage") / f"weights{suffix}"
    seeds = {
        ".bin": string("2ch") + integer(1) + integer(3),
        ".t7": T7().value({"modules": {1: np.ones((2, 2), np.float32)}}),
        ".pth": pickle.dumps({"a": 1}),
    }
    content = bytearray(seeds[suffix] + data.draw(st.binary(max_size=60)))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="weights"):
        load_external(path)


# ---- State dicts -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [TFeat, HardNet, SOSNet, HyNet])
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"epoch": 3, "state_dict": d}])
def test_pth(tmp_path, make, wrap):
    network = make().eval()
    old = {k: t for k, t in network.state_dict().items() if "num_batches" not in k}
    torch.save(wrap(old), tmp_path / "weights.pth")
    same(load_external(tmp_path / "weights.pth"), network)


def test_invalid_pth(tmp_path):
    path = tmp_path / "weights.pth"
    state = TFeat().state_dict()
    bad = {**state, "descr.0.bias": torch.full((128,), float("nan"))}
    for wrong, reason in (
        ({"a": torch.ones(1)}, "expected TFeat, HardNet, SOSNet or HyNet, got a"),
        ([1, 2], "got no tensors"),
        ({**state, "more": torch.ones(1)}, "does not fit TFeat.*: more"),
        ({**state, "descr.0.bias": torch.ones(3)}, r"does not fit TFeat.*: descr\.0\.bias"),
        (bad, r"not finite: descr\.0\.bias"),
    ):
        torch.save(wrong, path)
        with pytest.raises(ValueError, match=reason):
            load_external(path)


class _Evil:
    def __reduce__(self):
        return print, ("this ran",)


def test_pickles_do_not_run(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"descr.0.weight": _Evil()}, path)
    with pytest.raises(ValueError, match="is not a complete file of tensors only"):
        load_external(path)
    assert "this ran" not in capsys.readouterr().out


def test_invalid_file_names(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_external(tmp_path / "missing.bin")
    other = tmp_path / "weights.mat"
    other.write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected one of \.bin, \.t7, .* got '\.mat'"):
        load_external(other)


@pytest.mark.parametrize("name", ["liberty", "notredame", "yosemite"])
def test_published_tfeat(shared_data, name):
    path = shared_data / "interop" / "tfeat" / f"tfeat-{name}.params"
    if not path.is_file():
        pytest.skip(f"the published weights of TFeat ({path.name}) are missing")
    import kornia.feature

    reference = kornia.feature.TFeat(pretrained=False)
    reference.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network = load_external(path)
    patches = torch.rand(4, 1, 32, 32)
    torch.testing.assert_close(network(patches), reference.eval()(patches))
