"""Descriptor networks as ONNX files."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from flowmatch.export.onnx_file import (
    ExportReport,
    Interface,
    check_type,
    require_onnx,
    write_onnx,
)
from flowmatch.matching.describe import load_descriptor
from flowmatch.matching.store import STORE

TOLERANCES = {"float32": 1e-4, "float16": 1e-1}
"""Largest difference of an entry of a descriptor from PyTorch in float32."""


class _InFloat32(nn.Module):
    """A descriptor network that takes and returns float32 whatever its own type."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network.to(dtype), dtype

    def forward(self, patches: Tensor) -> Tensor:
        descriptors: Tensor = self.network(patches.to(self.dtype)).float()
        return descriptors


def export_descriptor(
    output: str | Path,
    *,
    model: str | Path | nn.Module = "default",
    batch: int | None = None,
    precision: str = "float32",
) -> ExportReport:
    """Write a descriptor network as an ONNX file of standard operators.

    The file takes ``patches``, float32 gray ``[B, 1, S, S]`` in [0, 1], with the patch size S of
    the network, and returns ``descriptors``, float32 ``[B, D]``, which are compared by l2. If
    ONNX Runtime is installed, the file is compared with PyTorch before it gets its name.

    Args:
        output: File to write, ``.onnx``.
        model: Name of weights, a file of weights, or a network.
        batch: Number of patches; None leaves it free.
        precision: Type of the weights: ``"float32"``, or ``"float16"`` for a file of half the size.

    Returns:
        What was written, and the difference from PyTorch.

    Raises:
        ValueError: An argument is unknown or out of range, the network compares patches, or ONNX
            Runtime computes other descriptors; then nothing is written.
        FileNotFoundError: The file of weights, or the folder of `output`, does not exist.
        ImportError: ONNX's packages are not installed (``pip install 'flowmatch[onnx]'``).

    Example:
        >>> export_descriptor("hardnet.onnx").outputs  # doctest: +SKIP
        {'descriptors': ('batch', 128)}
    """
    dtype = check_type(precision)
    if batch is not None and batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    require_onnx()
    network = load_descriptor(model, "cpu")
    if not isinstance(network, nn.Module):
        raise ValueError(f"{network} is no network, it is computed by OpenCV")
    network = copy.deepcopy(network).float().eval()
    name = type(model).__name__ if isinstance(model, nn.Module) else STORE.digest(model)
    size, dim = (int(getattr(network, key)) for key in ("patch_size", "dim"))
    ramp = torch.linspace(0, 20, (batch or 5) * size * size).view(-1, 1, size, size)
    interface = Interface(
        inputs=("patches",),
        input_shape=(batch or "batch", 1, size, size),
        output="descriptors",
        output_shape=(batch or "batch", dim),
        metadata={
            "task": "patch description",
            "input": f"patches: gray [B, 1, {size}, {size}] in [0, 1]",
            "output": f"descriptors: [B, {dim}], compared by l2",
        },
        tolerance=TOLERANCES[precision],
    )
    return write_onnx(
        Path(output),
        _InFloat32(copy.deepcopy(network), dtype),
        [ramp.square().sin() / 2 + 0.5],
        interface,
        model=name,
        reference=network,
    )
