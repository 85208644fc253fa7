"""Layouts of published checkpoints, and their conversion to state dicts of our networks."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowmatch.flow.networks.flownet import UNIT
from flowmatch.io._files import short_line

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


@dataclass(frozen=True)
class Layout:
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


def recognise(keys: Iterable[str], path: Path) -> Layout:
    """Determine a file's publisher and network from its keys.

    Raises:
        ValueError: The keys are of none of the known networks.
    """
    keys = set(keys)
    roots = {key.split(".")[0] for key in keys}
    if "fnet" in roots:
        large = any(
            key.startswith(("update_block.mask.", "update_block.gru.convz1")) for key in keys
        )
        name = "raft" if large else "raft-small"
        return Layout(
            f"Princeton's {'RAFT' if large else 'RAFT small'}", name,
            rename=_princeton_large if large else _princeton_small,
            repeated=r"cnet\.layer[23]\.0\.norm3\..*" if large else "(?!)",
        )  # fmt: skip
    if "feature_encoder" in roots:
        large = "mask_predictor" in roots
        source = f"torchvision's {'raft_large' if large else 'raft_small'}"
        return Layout(source, "raft" if large else "raft-small")
    if stack := _stack(roots):
        return Layout(f"NVIDIA's {stack}", stack.lower())
    if not {"predict_flow6", "conv1"} <= roots:
        raise ValueError(
            f"{path} is none of FlowNetPytorch's FlowNetS and FlowNetC, NVIDIA's FlowNet2 and its "
            "parts, and Princeton's and torchvision's RAFT; its keys begin with "
            f"{', '.join(map(short_line, sorted(roots)[:8]))}"
        )
    kind = "C" if "conv_redir" in roots else "S"
    normed = any(key.endswith(".running_var") for key in keys)
    batch = " with batch norms" if normed else ""
    if any(key.startswith("predict_flow") and key.endswith(".bias") for key in keys):
        return Layout(f"NVIDIA's FlowNet2{kind}{batch}", f"flownet{kind.lower()}", normed=normed)
    return Layout(
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


def expected_tensors(state: Mapping[str, Tensor], layout: Layout) -> Tensors:
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


def convert(expected: Mapping[str, Tensor], tensors: Tensors, layout: Layout) -> Tensors:
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


def change_unit(state: Tensors, unit: float) -> None:
    """Change the unit of the predicted flow from `unit` to `UNIT`, in place."""
    for key, tensor in state.items():
        if key.startswith("predict_flow"):
            tensor *= unit / UNIT
        elif re.fullmatch(r"upsampled_flow\w+\.weight", key):
            tensor *= UNIT / unit


def swap_red_and_blue(state: Tensors) -> None:
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
