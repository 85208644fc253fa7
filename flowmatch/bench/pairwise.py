"""All distances between sets of descriptors, beside torch's and the libraries' ways."""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowmatch.bench.measure import Case, Implementation
from flowmatch.ops import pairwise_distance

# B, N, M, D: patches of a batch of image pairs, and the features of one large pair.
SHAPES = {"64 x 512": (64, 512, 512, 128), "4096": (1, 4096, 4096, 128)}


def pairwise_cases(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
) -> list[Case]:
    """Return l2 distances, with ours, torch's idioms and the peers installed.

    Args:
        device: Where to compute.
        dtype: Any float type.
        shapes: ``(B, N, M, D)`` by the name of the case.
    """
    return [_case(name, shape, device, dtype) for name, shape in shapes.items()]


def _case(name: str, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Case:
    B, N, M, D = shape
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(B, n, D, generator=generator).to(device, dtype) for n in (N, M))
    ways: list[tuple[str, Callable[..., Tensor]]] = [
        ("flowmatch", pairwise_distance),
        ("torch: cdist", torch.cdist),
        ("torch: baddbmm and sqrt", _expanded),
    ]
    implementations = tuple(Implementation(label, run) for label, run in ways)
    if device.type == "cpu":
        implementations += tuple(Implementation(*way, differentiable=False) for way in _peers())
    # Which, unlike our reference, does not keep all differences for its gradient.
    truth = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")
    # The norm's expansion, which the others use, loses digits.
    close = (1e-3, 1e-3) if dtype == torch.float32 else None
    return Case(
        "pairwise", name, (x, y), 2.0 * B * N * M * D, truth, implementations, None, True, close
    )


def _peers() -> list[tuple[str, Callable[..., Tensor]]]:
    ways: list[tuple[str, Callable[..., Tensor]]] = []
    for label, module, run in (
        ("faiss pairwise_distances", "faiss", _faiss),
        ("scikit-learn", "sklearn.metrics.pairwise", _sklearn),
    ):
        try:
            ways.append((label, partial(run, importlib.import_module(module))))
        except ImportError:
            continue
    return ways


def _expanded(x: Tensor, y: Tensor) -> Tensor:
    squares = x.square().sum(-1)[..., None] + y.square().sum(-1)[:, None]
    return torch.baddbmm(squares, x, y.transpose(1, 2), alpha=-2).clamp(min=1e-12).sqrt()


def _faiss(faiss: Any, x: Tensor, y: Tensor) -> Tensor:
    pairs = zip(x.detach().float().numpy(), y.detach().float().numpy(), strict=True)
    return torch.stack([torch.from_numpy(faiss.pairwise_distances(a, b)) for a, b in pairs]).sqrt()


def _sklearn(metrics: Any, x: Tensor, y: Tensor) -> Tensor:
    pairs = zip(x.detach().float().numpy(), y.detach().float().numpy(), strict=True)
    return torch.stack([torch.from_numpy(metrics.euclidean_distances(a, b)) for a, b in pairs])
