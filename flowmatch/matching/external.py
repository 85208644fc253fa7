"""Reader of published weights: DeepCompare, TFeat, HardNet, SOSNet, HyNet.

No code in these files is executed, and memory is bounded by their length.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from flowmatch.io._files import FilePath, existing_file, short_line
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
from flowmatch.matching.torch7 import TorchObject, parse_t7
from flowmatch.tensor_files import read_saved
from flowmatch.zoo import unwrapped


class _Layer(NamedTuple):
    """Layer of a file.

    Attributes:
        weight: Flat weight.
        bias: Flat bias.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


_MAX_MODULES = 200  # DeepCompare's largest network has 50

# Networks of DeepCompare's files, identified by the sizes of their layers.
_DEEPCOMPARE: dict[str, Callable[[], nn.Module]] = {
    "2ch": lambda: TwoChannel(hidden=()),
    "2ch, as trained by train.lua": TwoChannel,
    "2chdeep": lambda: TwoChannelDeep(hidden=()),
    "2chdeep, as trained by train.lua": TwoChannelDeep,
    "2ch2stream": TwoChannelTwoStream,
    "siam": Siam,
    "siam2stream": SiamTwoStream,
    "siam2stream, as trained by train.lua": lambda: SiamTwoStream(hidden=(1024, 1024)),
    "siam_desc": SiamBranch,
    "siam2stream_desc": TwoStreamBranch,
}
_BIN_LAYERS = {
    "2ch": 4, "2chdeep": 8, "2ch2stream": 10, "siam": 5, "siam_desc": 3, "siam_decision": 2,
    "siam2stream": 10, "siam2stream_desc": 8, "siam2stream_decision": 2,
}  # fmt: skip


def load_external(path: FilePath, *, decision: FilePath | None = None) -> nn.Module:
    """Build a network with weights published by its authors.

    Args:
        path: ``.bin`` or ``.t7`` of cvpr15deepcompare; ``.params``, ``.pth`` or ``.pt`` of TFeat,
            HardNet, SOSNet or HyNet.
        decision: ``siam_decision.bin`` or ``siam2stream_decision.bin``, which complements the
            ``siam_desc.bin`` or ``siam2stream_desc.bin`` in `path`.

    Returns:
        The network, in eval mode, float32: a descriptor network, or one that compares patches.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is damaged, or holds another network.

    Example:
        >>> network = load_external("tfeat-liberty.params")  # doctest: +SKIP
        >>> network(torch.rand(3, 1, 32, 32)).shape  # doctest: +SKIP
        torch.Size([3, 128])

    Reference:
        github.com/szagoruyko/cvpr15deepcompare, vbalnt/tfeat, DagnyT/hardnet, yuruntian/SOSNet,
        yuruntian/HyNet.
    """
    path = existing_file(path)
    readers: dict[str, Callable[[Path], nn.Module]] = {
        ".t7": _load_t7, ".params": _load_torch, ".pth": _load_torch, ".pt": _load_torch,
    }  # fmt: skip
    suffix = path.suffix.lower()
    if suffix != ".bin" and (suffix not in readers or decision is not None):
        expected = "with decision, .bin" if decision is not None else f".bin, {', '.join(readers)}"
        raise ValueError(f"{path}: expected one of {expected}, got {suffix or 'no suffix'!r}")
    if suffix == ".bin":
        return _load_bin(path, None if decision is None else existing_file(decision)).eval()
    return readers[suffix](path).eval()


# ---- DeepCompare -------------------------------------------------------------------------------


def _load_bin(path: Path, decision: Path | None) -> nn.Module:
    name, layers = _read_bin(path)
    if decision is not None:
        other, decision_layers = _read_bin(decision)
        if not name.endswith("_desc") or other != name.replace("_desc", "_decision"):
            raise ValueError(
                "expected siam_desc with siam_decision, or siam2stream_desc with "
                f"siam2stream_decision, got {name} in {path} with {other} in {decision}"
            )
        name, layers = name.removesuffix("_desc"), layers + decision_layers
    if name.endswith("_decision"):
        raise ValueError(
            f"{path} holds decision layers only; expected {name.replace('_decision', '_desc')}.bin "
            "as path, and this file as decision"
        )
    return _build(layers, path, [name])


def _read_bin(path: Path) -> tuple[str, list[_Layer]]:
    """Read a .bin: name of the network, then index, sizes, weight and bias of each layer."""
    data = path.read_bytes()
    position = 0

    def take(count: int) -> bytes:
        nonlocal position
        if not 0 <= count <= len(data) - position:
            left = len(data) - position
            raise ValueError(f"{path}: expected {count} more bytes at {position}, {left} are left")
        position += count
        return data[position - count : position]

    def integer() -> int:
        return int.from_bytes(take(4), "little", signed=True)

    name = take(integer()).decode("latin-1")
    if name not in _BIN_LAYERS:
        known = ", ".join(_BIN_LAYERS)
        raise ValueError(f"{path}: expected the name of a network ({known}), got {name[:40]!r}")
    layers = []
    for _ in range(_BIN_LAYERS[name]):
        integer()  # index in the Lua network; redundant, because layers are in order
        weights, biases = integer(), integer()
        weight, bias = (np.frombuffer(take(4 * n), "<f4") for n in (weights, biases))
        layers.append(_Layer(weight, bias))
    if position != len(data):
        raise ValueError(f"{path}: expected {position} bytes for {name}, got {len(data)}")
    return name, layers


def _load_t7(path: Path) -> nn.Module:
    try:
        network = parse_t7(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a whole binary .t7 file: {error}") from error
    layers = _layers_of(network, path)
    # Both branches of a Siamese network are stored; they differ only in pseudo-siam.
    if _sizes(layers[:3]) == _sizes(layers[3:6]) and len(layers) == 8:
        if not _equal(layers[:3], layers[3:6]):
            return _fill(PseudoSiam(), layers, path)
        return _build(layers[3:], path, list(_DEEPCOMPARE))
    streams = len(layers) > 16 and _equal(layers[:8], layers[8:16])
    return _build(layers[8:] if streams else layers, path, list(_DEEPCOMPARE))


def _layers_of(network: Any, path: Path) -> list[_Layer]:
    """Return the layers of a Lua network that have weights, in the order of execution."""
    layers: list[_Layer] = []
    waiting, seen = [network], 0
    while waiting:
        module, seen = waiting.pop(), seen + 1
        # A module is stored once but may be referenced any number of times.
        if seen > _MAX_MODULES:
            raise ValueError(f"{path}: expected a network of at most {_MAX_MODULES} modules")
        if not isinstance(module, TorchObject) or not isinstance(module.fields, dict):
            continue
        fields = module.fields
        inner = fields.get("modules")
        if isinstance(inner, dict):
            places = sorted(key for key in inner if isinstance(key, float))
            waiting += [inner[key] for key in reversed(places[:_MAX_MODULES])]
        elif all(isinstance(fields.get(key), np.ndarray) for key in ("weight", "bias")):
            weight, bias = (fields[key].astype(np.float32).ravel() for key in ("weight", "bias"))
            layers.append(_Layer(weight, bias))
    return layers


def _sizes(layers: Sequence[_Layer]) -> list[tuple[int, int]]:
    return [(layer.weight.size, layer.bias.size) for layer in layers]


def _equal(first: Sequence[_Layer], second: Sequence[_Layer]) -> bool:
    return _sizes(first) == _sizes(second) and all(
        np.array_equal(a, b)
        for pair in zip(first, second, strict=True)
        for a, b in zip(*pair, strict=True)
    )


def _build(layers: Sequence[_Layer], path: Path, names: Sequence[str]) -> nn.Module:
    """Build the first of the networks `names` whose layers have these sizes."""
    for name, make in _DEEPCOMPARE.items():
        if name in names:
            with torch.device("meta"):
                parameters = list(make().parameters())
            expected = [p.numel() for p in parameters]
            if [n for pair in _sizes(layers) for n in pair] == expected:
                return _fill(make(), layers, path)
    raise ValueError(
        f"{path}: expected the layers of {' or '.join(names)}, "
        f"got {len(layers)} with (weights, biases) {_sizes(layers)[:20]}"
    )


def _fill(network: nn.Module, layers: Sequence[_Layer], path: Path) -> nn.Module:
    parameters = list(network.parameters())
    arrays = [array for layer in layers for array in layer]
    if [p.numel() for p in parameters] != [array.size for array in arrays]:
        raise ValueError(f"{path}: layers {_sizes(layers)} do not fit {type(network).__name__}")
    for parameter, array in zip(parameters, arrays, strict=True):
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: expected finite weights, got NaN or inf")
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(array.copy()).view_as(parameter))
    return network


# ---- State dicts of PyTorch --------------------------------------------------------------------

# Tensor by which each network is recognised.
_TORCH: dict[str, Callable[[], nn.Module]] = {
    "descr.0.weight": TFeat,
    "features.19.weight": HardNet,
    "layers.20.weight": SOSNet,
    "layer7.1.weight": HyNet,
}
# Counters and constants that older versions of PyTorch do not store.
_OPTIONAL = ("num_batches_tracked", "eps")


def _load_torch(path: Path) -> nn.Module:
    tensors = _state_dict(read_saved(path))
    make = next((make for key, make in _TORCH.items() if key in tensors), None)
    if make is None:
        shown = ", ".join(map(short_line, sorted(tensors)[:5])) or "no tensors"
        raise ValueError(f"{path}: expected TFeat, HardNet, SOSNet or HyNet, got {shown}")
    network = make()
    expected = network.state_dict()
    tensors = {key: t for key, t in tensors.items() if not key.endswith(_OPTIONAL)}
    needed = {key for key in expected if not key.endswith(_OPTIONAL)}
    wrong = sorted(needed ^ tensors.keys())
    wrong += sorted(k for k in needed & tensors.keys() if tensors[k].shape != expected[k].shape)
    # Only now: a tensor with a stride of 0 could have any number of elements.
    wrong += [] if wrong else sorted(k for k in tensors if not tensors[k].isfinite().all())
    if wrong:
        shown = ", ".join(map(short_line, wrong[:5]))
        raise ValueError(
            f"{path} does not fit {type(network).__name__}; missing, unexpected, of another shape "
            f"or not finite: {shown}"
        )
    network.load_state_dict(tensors, strict=False)
    return network.float()


def _state_dict(content: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a network, without the wrappers of training scripts."""
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        return {}
    tensors = {
        str(key): value
        for key, value in content.items()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided
    }
    return unwrapped(tensors)
