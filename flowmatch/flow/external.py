"""Published checkpoints, recognised by their keys and converted to networks of this package.

Reference:
    FlowNetPytorch (Pinard), flownet2-pytorch (NVIDIA: all of FlowNet 2.0, single and stacked), RAFT
    (Princeton) and torchvision: the names of their parameters, their preprocessing of images, and
    the unit of their flow.
"""

import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from flowmatch.devices import choose_device
from flowmatch.flow.networks import MODELS
from flowmatch.flow.networks.flownet import UNIT
from flowmatch.flow.store import save_weights
from flowmatch.zoo import check_finite, check_fit

Tensors = dict[str, Tensor]
_Rule = tuple[str, str | Callable[[re.Match[str]], str]]

PINARD_MEAN = (0.45, 0.432, 0.411)
"""RGB mean that FlowNetPytorch subtracts."""
EPSILON = 1e-5
"""Epsilon of all batch norms."""
STATISTICS = ("weight", "bias", "running_mean", "running_var")
"""Tensors of a batch norm."""
COUNTER = "num_batches_tracked"
"""Counter of a batch norm, which does not affect the flow; old files lack it."""
FIRST_LAYER = re.compile(
    r"(flownet\w+\.)?conv[01]\.0\.weight|(feature|context)_encoder\.convnormrelu\.0\.weight"
)
IMAGES = {3: 1, 6: 2, 12: 3, 11: 1}
"""Number of images among the input channels of a first layer, by the number of channels."""


class ExternalWeights(NamedTuple):
    """Contents of a published checkpoint.

    Attributes:
        source: Publisher, and their name of the network.
        name: Name of the network in `MODELS`.
        arguments: Arguments of its constructor.
        network: The network, in eval mode, float32, on the CPU.
    """

    source: str
    name: str
    arguments: dict[str, Any]
    network: nn.Module


@dataclass(frozen=True)
class _Layout:
    """Layout of a publisher's files of one network.

    Attributes:
        source: Publisher, and their name of the network.
        name: Name of the network in `MODELS`.
        arguments: Arguments of its constructor.
        rename: Function from our key to the publisher's.
        absent: Pattern of our keys that the files lack, because they are zero.
        repeated: Pattern of the publisher's keys that repeat another one.
        normed: Each encoder layer has a batch norm instead of a bias.
    """

    source: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    rename: Callable[[str], str] = str
    absent: str = "(?!)"
    repeated: str = "(?!)"
    normed: bool = False


def load_external(
    path: str | Path, *, device: str | torch.device = "cpu", bgr: bool = False
) -> nn.Module:
    """Build a flow network with published weights.

    The keys of a file determine its network: FlowNetPytorch's FlowNetS and FlowNetC, with and
    without batch norms; FlowNet2, FlowNet2C, S, SD, CS and CSS (also CSS-ft-sd) of NVIDIA's
    flownet2-pytorch; RAFT and its small version, as Princeton and as torchvision write them. Batch
    norms of FlowNetS and FlowNetC are folded into the convolutions, and the publisher's
    preprocessing becomes a part of the network. FlowNet2SD's flow is in pixels, as inside FlowNet2;
    NVIDIA's code for that file alone makes it 400 times as long. Only tensors are unpickled, and
    shapes are compared before memory is allocated.

    Args:
        path: The file: ``.safetensors``, or written by `torch.save` (``.pth``, ``.tar``, ...).
        device: Device of the network.
        bgr: The weights expect blue first, like FlowNetPytorch's from Caffe; the file does not
            record it. The returned network takes RGB.

    Returns:
        The network, in eval mode, float32.

    Raises:
        ValueError: The file is damaged, not a checkpoint, or holds more than tensors; its network
            is not one of these; keys are missing or unexpected, or shapes are wrong.
        FileNotFoundError: The file does not exist.

    Example:
        >>> import tempfile
        >>> from flowmatch.flow import RAFTSmall
        >>> path = Path(tempfile.mkdtemp()) / "raft_small.pth"
        >>> torch.save(RAFTSmall().state_dict(), path)  # torchvision's names are ours
        >>> type(load_external(path)).__name__
        'RAFTSmall'
    """
    target = choose_device(device)
    return read_checkpoint(path, bgr=bgr).network.to(target)


def convert_checkpoint(
    path: str | Path, target: str | Path, *, bgr: bool = False, dtype: torch.dtype = torch.float16
) -> ExternalWeights:
    """Convert a published checkpoint to a ``.safetensors`` file that `load` reads.

    Args:
        path: File that `load_external` reads.
        target: File to write, ``.safetensors``.
        bgr: The weights expect blue first.
        dtype: Type of the written weights.

    Returns:
        The contents of `path`.

    Raises:
        ValueError: For the reasons of `load_external`, or `target` has another suffix.
    """
    if Path(target).suffix != ".safetensors":
        raise ValueError(f"the file to write must be called .safetensors, got {target}")
    weights = read_checkpoint(path, bgr=bgr)
    save_weights(target, weights.network, weights.name, weights.arguments, dtype)
    return weights


def read_checkpoint(path: str | Path, *, bgr: bool = False) -> ExternalWeights:
    """Return the contents of a published checkpoint, with the network that `load_external` builds.

    Args:
        path: File that `load_external` reads.
        bgr: The weights expect blue first.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    tensors, unit = _read(path)
    layout = _recognise(tensors.keys(), path)
    if unit != UNIT and layout.name not in ("flownets", "flownetc"):
        raise ValueError(f"{path}: {layout.source} has no div_flow but {UNIT:g}, got {unit:g}")
    with torch.device("meta"):  # without memory, until the file is known to fit
        network = MODELS[layout.name](**layout.arguments)
    expected = network.state_dict()
    dropped = re.compile(rf".*\.{COUNTER}|{layout.repeated}")
    tensors = {key: t for key, t in tensors.items() if not dropped.fullmatch(key)}
    check_fit(_expected_tensors(expected, layout), tensors, path, layout.source)
    state = _convert(expected, tensors, layout)
    if unit != UNIT:
        _change_unit(state, unit)
    if bgr:
        _swap_red_and_blue(state)
    check_finite(state, path)
    network.load_state_dict(state, assign=True)
    return ExternalWeights(layout.source, layout.name, layout.arguments, network.eval())


def _read(path: Path) -> tuple[Tensors, float]:
    """Return the tensors of a file, and the unit of its flow in pixels."""
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_saved(path)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{path} must hold weights by name, got {type(state).__name__}")
    for key, tensor in state.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided
        if not isinstance(key, str) or not plain or tensor.device.type != "cpu":
            raise ValueError(f"{path}: {key!r} must be a tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point() and not key.endswith(COUNTER):
            raise ValueError(f"{path}: {key} must be floats, got {tensor.dtype}")
    if all(key.startswith("module.") for key in state):  # saved from nn.DataParallel
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    unit = content.get("div_flow", UNIT) if state is not content else UNIT
    if not isinstance(unit, int | float) or not 0 < unit < math.inf:
        raise ValueError(f"{path}: div_flow must be a positive number, got {unit!r}")
    return dict(state), float(unit)


def _read_safetensors(path: Path) -> Tensors:
    try:
        with safe_open(path, framework="pt") as file:
            if "model" in (file.metadata() or {}):
                raise ValueError(f"{path} is flowmatch's own: flowmatch.flow.load reads it")
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole .safetensors file: {error}") from error


def _read_saved(path: Path) -> Any:
    try:
        is_zip = zipfile.is_zipfile(path)  # older files are a sequence of pickles
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                    raise ValueError("it is compressed, which torch.save does not do")
        else:
            with path.open("rb") as file:
                if file.read(1) != pickle.PROTO:
                    raise ValueError("it is neither a zip archive nor a sequence of pickles")
        # Mapped, so that only the used part takes memory.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # an untrusted file may fail in any way
        # torch wraps the error of its unpickler in the advice to unpickle everything.
        refused = isinstance(error, pickle.UnpicklingError) and error.__context__
        lines = str(refused or error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise ValueError(f"{path} is not a complete file of tensors only: {reason}") from error


def _recognise(keys: Iterable[str], path: Path) -> _Layout:
    """Determine a file's publisher and network from its keys."""
    keys = set(keys)
    roots = {key.split(".")[0] for key in keys}
    if "fnet" in roots:
        large = any(
            key.startswith(("update_block.mask.", "update_block.gru.convz1")) for key in keys
        )
        name = "raft" if large else "raft-small"
        return _Layout(
            f"Princeton's {'RAFT' if large else 'RAFT small'}", name,
            rename=_princeton_large if large else _princeton_small,
            repeated=r"cnet\.layer[23]\.0\.norm3\..*" if large else "(?!)",
        )  # fmt: skip
    if "feature_encoder" in roots:
        large = "mask_predictor" in roots
        source = f"torchvision's {'raft_large' if large else 'raft_small'}"
        return _Layout(source, "raft" if large else "raft-small")
    if stack := _stack(roots):
        return _Layout(f"NVIDIA's {stack}", stack.lower())
    if not {"predict_flow6", "conv1"} <= roots:
        raise ValueError(
            f"{path} is none of FlowNetPytorch's FlowNetS and FlowNetC, NVIDIA's FlowNet2 and its "
            "parts, and Princeton's and torchvision's RAFT; its keys begin with "
            f"{', '.join(sorted(roots)[:8])}"
        )
    kind = "C" if "conv_redir" in roots else "S"
    normed = any(key.endswith(".running_var") for key in keys)
    batch = " with batch norms" if normed else ""
    if any(key.startswith("predict_flow") and key.endswith(".bias") for key in keys):
        return _Layout(f"NVIDIA's FlowNet2{kind}{batch}", f"flownet{kind.lower()}", normed=normed)
    return _Layout(
        f"FlowNetPytorch's FlowNet{kind}{batch}", f"flownet{kind.lower()}",
        {"mean": list(PINARD_MEAN)},
        absent=r"(deconv|predict_flow|upsampled_flow).*\.bias", normed=normed,
    )  # fmt: skip


def _stack(roots: set[str]) -> str | None:
    """Return NVIDIA's name of the network if it is FlowNet2SD or a stack, else None."""
    if roots & {"flownets_d", "flownetfusion"}:
        return "FlowNet2"
    if "flownets_2" in roots:
        return "FlowNet2CSS"
    if "flownets_1" in roots:
        return "FlowNet2CS"
    return "FlowNet2SD" if any(root.startswith("inter_conv") for root in roots) else None


def _expected_tensors(state: Mapping[str, Tensor], layout: _Layout) -> Tensors:
    """Return tensors of the keys and shapes that a publisher's file must hold for a state dict."""
    expected: Tensors = {}
    for key, tensor in state.items():
        if key.endswith(COUNTER) or re.fullmatch(layout.absent, key):
            continue
        if layout.normed and _is_encoder_bias(key):
            norm = key.replace(".0.bias", ".1")
            expected |= {f"{norm}.{part}": tensor for part in STATISTICS}
        else:
            expected[layout.rename(key)] = tensor
    return expected


def _convert(expected: Mapping[str, Tensor], tensors: Tensors, layout: _Layout) -> Tensors:
    """Return a network's state dict, of the expected keys, from a publisher's tensors."""
    state: Tensors = {}
    for key, tensor in expected.items():
        if layout.normed and _is_encoder_bias(key):
            weight = tensors[key.replace("bias", "weight")]
            state[key.replace("bias", "weight")], state[key] = _fold(
                weight, *(tensors[key.replace(".0.bias", f".1.{part}")] for part in STATISTICS)
            )
        elif key.endswith(COUNTER) or re.fullmatch(layout.absent, key):
            state[key] = torch.zeros(tensor.shape, dtype=tensor.dtype)
        else:  # a copy, which outlives the mapped file
            source = tensors[layout.rename(key)]
            state[key] = source.to(tensor.dtype, copy=True, memory_format=torch.contiguous_format)
    return state


def _is_encoder_bias(key: str) -> bool:
    return re.fullmatch(r"conv\w+\.0\.bias", key) is not None


def _fold(
    kernel: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Fold a batch norm into the convolution without bias before it; return kernel and bias."""
    kernel, weight, bias, mean, variance = (
        t.double() for t in (kernel, weight, bias, mean, variance)
    )
    factor = weight / (variance + EPSILON).sqrt()
    return (kernel * factor[:, None, None, None]).float(), (bias - mean * factor).float()


def _change_unit(state: Tensors, unit: float) -> None:
    """Change the unit of the predicted flow from `unit` to `UNIT`, in place."""
    for key, tensor in state.items():
        if key.startswith("predict_flow"):
            tensor *= unit / UNIT
        elif re.fullmatch(r"upsampled_flow\w+\.weight", key):
            tensor *= UNIT / unit


def _swap_red_and_blue(state: Tensors) -> None:
    """Change the first layers from blue first to red first, in place."""
    for key in filter(FIRST_LAYER.fullmatch, state):
        if "conv1" in key and key.replace("conv1", "conv0") in state:
            continue  # the second layer
        count = IMAGES[state[key].shape[1]]
        images = state[key][:, : 3 * count].chunk(count, dim=1)
        others = state[key][:, 3 * count :]
        state[key] = torch.cat([*(image.flip(1) for image in images), others], dim=1)


def _rename(key: str, rules: Iterable[_Rule]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


_PRINCETON: tuple[_Rule, ...] = (
    (r"^(feature|context)_encoder\.conv\.", r"\1_encoder.conv2."),
    (r"\.convnormrelu\.0\.", ".conv1."),
    (r"\.convnormrelu\.1\.", ".norm1."),
    (r"\.convnormrelu(\d)\.0\.", r".conv\1."),
    (r"\.convnormrelu(\d)\.1\.", r".norm\1."),
    (r"^feature_encoder\.", "fnet."),
    (r"^context_encoder\.", "cnet."),
    (r"\.motion_encoder\.conv(corr|flow)(\d)\.0\.", lambda m: f".encoder.conv{m[1][0]}{m[2]}."),
    (r"\.motion_encoder\.conv\.0\.", ".encoder.conv."),
    (r"^mask_predictor\.convrelu\.0\.", "update_block.mask.0."),
    (r"^mask_predictor\.conv\.", "update_block.mask.2."),
)


def _princeton_large(key: str) -> str:
    return _rename(
        key, (*_PRINCETON, (r"\.recurrent_block\.convgru(\d)\.conv(.)\.", r".gru.conv\2\1."))
    )


def _princeton_small(key: str) -> str:
    return _rename(key, (*_PRINCETON, (r"\.recurrent_block\.convgru1\.", ".gru.")))
