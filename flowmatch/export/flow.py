"""Flow networks as ONNX files."""

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.export.onnx_file import (
    LARGEST,
    ExportReport,
    Interface,
    check_type,
    require_onnx,
    write_onnx,
)
from flowmatch.flow.networks import PyramidNet, RecurrentPyramid
from flowmatch.flow.networks.padding import SMALLEST
from flowmatch.flow.store import STORE

_PROBE = 128  # side of images for which all networks return whole levels
TOLERANCES = {"float32": 1e-3, "float16": 1.0}
"""Largest difference from PyTorch in float32, in pixels."""


class _FullResolution(nn.Module):
    """A network whose flow is enlarged to the resolution of the images, as `estimate_flow` does."""

    def __init__(self, network: nn.Module, factor: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.factor, self.dtype = network.to(dtype), factor, dtype

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        H, W = first.shape[-2:]
        flow: Tensor = self.network(first.to(self.dtype), second.to(self.dtype))[0].float()
        if self.factor > 1:
            flow = self.factor * F.interpolate(flow, scale_factor=self.factor, mode="bilinear")
        return flow[..., :H, :W]


def export_flow(
    output: str | Path,
    *,
    model: str | Path | nn.Module = "default",
    size: tuple[int, int] | None = None,
    batch: int = 1,
    precision: str = "float32",
) -> ExportReport:
    """Write a flow network as an ONNX file of standard operators.

    The file takes ``first`` and ``second``, float32 RGB ``[B, 3, H, W]`` in [0, 1], of any size
    from 16 pixels on; it pads them itself. It returns ``flow``, float32 ``[B, 2, H, W]``, in
    pixels, (u right, v down): that of ``estimate_flow`` with the quality ``"fast"``. If ONNX
    Runtime is installed, the file is compared with PyTorch before it gets its name.

    Args:
        output: File to write, ``.onnx``.
        model: Name of weights, a ``.safetensors`` file, or a network.
        size: Height and width of the images, which every runtime takes; None leaves them free.
        batch: Number of pairs.
        precision: Type of the weights: ``"float32"``, or ``"float16"`` for a file of half the size.

    Returns:
        What was written, and the difference from PyTorch.

    Raises:
        ValueError: An argument is unknown or out of range, or ONNX Runtime computes another flow;
            then nothing is written.
        FileNotFoundError: The file of weights, or the folder of `output`, does not exist.
        ImportError: ONNX's packages are not installed (``pip install 'flowmatch[onnx]'``).

    Example:
        >>> export_flow("flow.onnx", size=(384, 512)).outputs  # doctest: +SKIP
        {'flow': (1, 2, 384, 512)}
    """
    dtype = check_type(precision)
    if size is not None and not (len(size) == 2 and all(SMALLEST <= s <= LARGEST for s in size)):
        raise ValueError(f"size must be (height, width), {SMALLEST} to {LARGEST} each, got {size}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    require_onnx()
    if isinstance(model, nn.Module):
        network, name = copy.deepcopy(model).cpu().float().eval(), type(model).__name__
    else:
        network, name = STORE.load(model), STORE.digest(model)
    factor = _factor(network)
    reference = _FullResolution(network, factor, torch.float32).eval()
    module = _FullResolution(copy.deepcopy(network), factor, dtype).eval()
    sides = size or ("height", "width")
    interface = Interface(
        inputs=("first", "second"),
        input_shape=(batch, 3, *sides),
        output="flow",
        output_shape=(batch, 2, *sides),
        metadata=_metadata(size),
        tolerance=TOLERANCES[precision],
        smallest=SMALLEST,
        multiple=None if size else _multiple(network),
    )
    examples = moving_texture(*(size or (136, 200)), batch=batch)
    return write_onnx(Path(output), module, examples, interface, model=name, reference=reference)


def moving_texture(height: int, width: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Return two images ``[B, 3, H, W]`` of a smooth texture that moves by (2, -1) pixels."""
    y = torch.arange(float(height))[:, None]
    x = torch.arange(float(width))
    phases = torch.arange(3.0 * batch).view(batch, 3, 1, 1)

    def texture(u: float, v: float) -> Tensor:
        waves = ((0.11, 0.05), (-0.07, 0.13), (0.31, -0.17), (0.23, 0.29))
        parts = [torch.sin(a * (x - u) + b * (y - v) + phases * (1 + a)) for a, b in waves]
        return 0.5 + torch.stack(parts).mean(0) / 2

    return texture(0, 0), texture(2, -1)


def _factor(network: nn.Module) -> int:
    """Return the factor from a network's finest flow to the resolution of its images."""
    image = torch.zeros(1, 3, _PROBE, _PROBE)
    with torch.no_grad():
        return int(_PROBE // network(image, image)[0].shape[-1])


def _multiple(network: nn.Module) -> int | None:
    """Return the stride to which a file pads for a network; None if the network pads itself.

    The levels of a pyramid are resized to each other; `torch.export` only follows their sizes if
    these divide without a remainder.
    """
    if isinstance(network, PyramidNet | RecurrentPyramid):
        return int(2 ** len(network.encoder))
    return None


def _metadata(size: tuple[int, int] | None) -> dict[str, str]:
    smallest = f", at least {SMALLEST} x {SMALLEST}" if size is None else ""
    return {
        "task": "optical flow",
        "input": f"first, second: RGB [B, 3, H, W] in [0, 1]{smallest}",
        "output": "flow: [B, 2, H, W] in pixels of the input, u right, v down, first to second",
    }
