"""Confidence of a flow, whatever network or method gave it."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowmatch.flow._inputs import module_device, network_of, to_tensors
from flowmatch.flow.networks.confidence import (
    STRIDE,
    FlowConfidence,
    expected_error,
    within,
)
from flowmatch.flow.store import load

CONFIDENT = 1.0
"""Endpoint error in pixels; the confidence is the probability of a smaller one."""
MARGIN = 64
"""Number of rows around a strip that its confidence depends on."""


class FlowJudgement(NamedTuple):
    """How sure a flow is at each pixel.

    Attributes:
        confidence: Probability, 0 to 1, that the endpoint error is below 1 px; float32 ``[H, W]``,
            or a tensor ``[B, H, W]``.
        expected_error: Expected endpoint error in pixels, of the same shape.
    """

    confidence: Any
    expected_error: Any


def judge_flow(
    first: Any,
    second: Any,
    forward: Any,
    backward: Any,
    *,
    model: str | Path | nn.Module = "confidence",
    device: str | torch.device | None = None,
    tile: int | None = None,
) -> FlowJudgement:
    """Estimate how wrong a flow is at each pixel: a flow of any network or method.

    A network compares both frames along the flow, and looks at the flow and at the flow back. Its
    probabilities are calibrated on rendered pairs.

    Args:
        first: Image or batch, as `estimate_flow` takes it.
        second: The later image, of the same kind and size.
        forward: Flow from the first to the second, ``[H, W, 2]`` for images, a tensor
            ``[B, 2, H, W]`` for tensors, in pixels; where it is unknown (NaN), the confidence is 0
            and the expected error NaN.
        backward: Flow from the second to the first, of the same method.
        model: Name of weights of `FlowConfidence`, a ``.safetensors`` file, or the network.
        device: Device to compute on; None takes a GPU where torch can use one, and leaves a given
            network where it is.
        tile: Number of rows that are judged at a time, which bounds the memory; None takes all.

    Raises:
        ValueError: The images differ in kind or size, the flows do not fit them, or `model` is no
            network of this kind.
        FileNotFoundError: The file of weights does not exist.

    Example:
        >>> frame, still = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64, 2), np.float32)
        >>> judge_flow(frame, frame, still, still).confidence.shape
        (48, 64)
    """
    network = network_of(model, device)
    if not isinstance(network, FlowConfidence):
        raise ValueError(f"model must be a FlowConfidence, got {type(network).__name__}")
    a, b = to_tensors(first, second, module_device(network))
    there, back = _to_flow(forward, a), _to_flow(backward, a)
    known = there.isfinite().all(dim=1)
    there, back = there.nan_to_num(0, 0, 0), back.nan_to_num(0, 0, 0)
    logits = judge_rows(network, a, b, there, back, tile)
    confidence = within(logits, CONFIDENT).where(known, 0.0)
    error = expected_error(logits).where(known, torch.nan)
    if isinstance(first, Tensor):
        return FlowJudgement(confidence, error)
    return FlowJudgement(confidence[0].cpu().numpy(), error[0].cpu().numpy())


@torch.no_grad()
def judge_rows(
    network: FlowConfidence,
    first: Tensor,
    second: Tensor,
    forward: Tensor,
    backward: Tensor,
    rows: int | None,
) -> Tensor:
    """Return the logits of `FlowConfidence`, ``[B, 8, H, W]``, some rows at a time.

    The network sees around the rows also `MARGIN` others, and all that the flow leads to.

    Args:
        network: The network.
        first: RGB images in [0, 1], ``[B, 3, H, W]``.
        second: The later images, same shape.
        forward: Flow from the first to the second, ``[B, 2, H, W]``.
        backward: Flow from the second to the first, same shape.
        rows: Number of rows; None takes all.
    """
    H = first.shape[-2]
    if rows is None or rows >= H:
        return cast(Tensor, network(first, second, forward, backward))
    strips = []
    for top in range(0, H, rows):
        above, below = max(top - MARGIN, 0), min(top + rows + MARGIN, H)
        y = torch.arange(above, below, device=forward.device)[:, None]
        ends = (y + forward[:, 1, above:below]).round()
        # Below the strip, a row of the frame may be missing that a bilinear sample needs.
        above = min(above, max(int(ends.min()) - 1, 0)) // STRIDE * STRIDE
        below = max(below, min(int(ends.max()) + 3, H))
        window = [part[..., above:below, :] for part in (first, second, forward, backward)]
        strips.append(network(*window)[..., top - above : top - above + rows, :])
    return torch.cat(strips, dim=-2)


@lru_cache(maxsize=1)
def shipped_judge(device: str) -> FlowConfidence:
    """Return the confidence network that ships, on a device."""
    network = load("confidence", device=device)
    assert isinstance(network, FlowConfidence)
    return network


def _to_flow(flow: Any, images: Tensor) -> Tensor:
    """Convert a flow ``[H, W, 2]``, or a batch, to a tensor beside the images."""
    if not isinstance(flow, Tensor):
        array: NDArray[np.float32] = np.ascontiguousarray(flow, np.float32)
        flow = torch.from_numpy(array[None]).movedim(-1, 1) if array.ndim == 3 else torch.empty(0)
    expected = (len(images), 2, *images.shape[-2:])
    if flow.shape != expected:
        raise ValueError(
            "flows must have the size of the images, [H, W, 2] or [B, 2, H, W], "
            f"got {tuple(flow.shape)} for images {tuple(images.shape)}"
        )
    result: Tensor = flow.to(images)
    return result
