"""Published checkpoints, recognised by their keys and converted to networks of this package.

Reference:
    FlowNetPytorch (Pinard), flownet2-pytorch (NVIDIA: all of FlowNet 2.0, single and stacked), RAFT
    (Princeton) and torchvision: the names of their parameters, their preprocessing of images, and
    the unit of their flow.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flowmatch.devices import choose_device
from flowmatch.flow.external_layouts import (
    COUNTER,
    Tensors,
    change_unit,
    convert,
    expected_tensors,
    recognise,
    swap_red_and_blue,
)
from flowmatch.flow.networks import MODELS
from flowmatch.flow.networks.flownet import UNIT
from flowmatch.flow.store import save_weights
from flowmatch.io._files import short_line
from flowmatch.tensor_files import read_safetensors, read_saved
from flowmatch.zoo import check_finite, check_fit, unwrapped


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
    layout = recognise(tensors.keys(), path)
    if unit != UNIT and layout.name not in ("flownets", "flownetc"):
        raise ValueError(f"{path}: {layout.source} has no div_flow but {UNIT:g}, got {unit:g}")
    with torch.device("meta"):  # without memory, until the file is known to fit
        network = MODELS[layout.name](**layout.arguments)
    expected = network.state_dict()
    dropped = re.compile(rf".*\.{COUNTER}|{layout.repeated}")
    tensors = {key: t for key, t in tensors.items() if not dropped.fullmatch(key)}
    check_fit(expected_tensors(expected, layout), tensors, path, layout.source)
    state = convert(expected, tensors, layout)
    if unit != UNIT:
        change_unit(state, unit)
    if bgr:
        swap_red_and_blue(state)
    check_finite(state, path)
    network.load_state_dict(state, assign=True)
    return ExternalWeights(layout.source, layout.name, layout.arguments, network.float().eval())


def _read(path: Path) -> tuple[Tensors, float]:
    """Return the tensors of a file, and the unit of its flow in pixels."""
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_saved(path)
    state = content
    for key in ("state_dict", "model") if isinstance(content, Mapping) else ():
        if isinstance(content.get(key), Mapping):
            state = content[key]
            break
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{path} must hold weights by name, got {type(state).__name__}")
    for key, tensor in state.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided
        if not isinstance(key, str) or not plain or tensor.device.type != "cpu":
            raise ValueError(
                f"{path}: {key!r} must be a tensor, got {type(tensor).__name__}; weights are "
                "looked for in state_dict, in model and at the top, where there are "
                f"{', '.join(short_line(str(name)[:40]) for name in list(content)[:8])}"
            )
        if not tensor.is_floating_point() and not key.endswith(COUNTER):
            raise ValueError(f"{path}: {short_line(key)} must be floats, got {tensor.dtype}")
    state = unwrapped(state)
    unit = content.get("div_flow", UNIT) if state is not content else UNIT
    if not isinstance(unit, int | float) or not 0 < unit < math.inf:
        raise ValueError(f"{path}: div_flow must be a positive number, got {unit!r}")
    return dict(state), float(unit)


def _read_safetensors(path: Path) -> Tensors:
    tensors, metadata = read_safetensors(path)
    if "model" in metadata:
        raise ValueError(f"{path} is flowmatch's own: flowmatch.flow.load reads it")
    return tensors
