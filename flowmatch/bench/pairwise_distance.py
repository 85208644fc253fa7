"""Benchmark of pairwise distances, against torch, faiss and scikit-learn."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowmatch.bench.measure import Case, Implementation, Suite
from flowmatch.ops import pairwise_distance

# B, N, M, D: a batch of small sets, as in training, and the features of one image pair.
_SHAPES = {"64 x 512": (64, 512, 512, 128), "4096": (1, 4096, 4096, 128)}


def _case(name: str, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Case:
    B, N, M, D = shape
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(B, n, D, generator=generator).to(device, dtype) for n in (N, M))
    functions: list[tuple[str, Callable[..., Tensor]]] = [
        ("flowmatch", pairwise_distance),
        ("torch: cdist", torch.cdist),
        ("torch: baddbmm and sqrt", _expanded),
    ]
    implementations = tuple(Implementation(label, run) for label, run in functions)
    if device.type == "cpu":
        implementations += tuple(Implementation(*peer, differentiable=False) for peer in _peers())
    # Not our reference, which would keep all differences for its gradient.
    truth = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")
    # The expansion |x|^2 + |y|^2 - 2 x.y, which the others use, loses digits.
    tolerance = (1e-3, 1e-3) if dtype == torch.float32 else None
    flops = 2.0 * B * N * M * D
    inputs = (x, y)
    return Case(
        "pairwise_distance", name, inputs, flops, truth, implementations, tolerance=tolerance
    )


def _peers() -> list[tuple[str, Callable[..., Tensor]]]:
    functions: list[tuple[str, Callable[..., Tensor]]] = []
    for label, module, run in (
        ("faiss pairwise_distances", "faiss", _faiss),
        ("scikit-learn", "sklearn.metrics.pairwise", _sklearn),
    ):
        try:
            functions.append((label, partial(run, importlib.import_module(module))))
        except ImportError:
            continue
    return functions


def _expanded(x: Tensor, y: Tensor) -> Tensor:
    squares = x.square().sum(-1)[..., None] + y.square().sum(-1)[:, None]
    return torch.baddbmm(squares, x, y.transpose(1, 2), alpha=-2).clamp(min=1e-12).sqrt()


def _faiss(faiss: Any, x: Tensor, y: Tensor) -> Tensor:
    pairs = zip(x.detach().float().numpy(), y.detach().float().numpy(), strict=True)
    return torch.stack([torch.from_numpy(faiss.pairwise_distances(a, b)) for a, b in pairs]).sqrt()


def _sklearn(metrics: Any, x: Tensor, y: Tensor) -> Tensor:
    pairs = zip(x.detach().float().numpy(), y.detach().float().numpy(), strict=True)
    return torch.stack([torch.from_numpy(metrics.euclidean_distances(a, b)) for a, b in pairs])


SUITE = Suite(_case, "B,N,M,D", _SHAPES)
