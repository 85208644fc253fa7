"""Benchmark of nearest neighbours, against the libraries commonly used for matching."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.bench.measure import Case, Implementation, Suite
from flowmatch.ops import nearest
from flowmatch.ops.nearest_reference import nearest_hamming_reference, nearest_reference

# Kind, B, N, M, D. Kind 0: l2; 1: l2 with ratio and mutual test; 2: hamming, with D bytes.
_SHAPES = {
    "l2 8192": (0, 1, 8192, 8192, 128),
    "l2 32768": (0, 1, 32768, 32768, 128),
    "l2 64 x 512": (0, 64, 512, 512, 128),
    "mutual + ratio 8192": (1, 1, 8192, 8192, 128),
    "hamming 8192": (2, 1, 8192, 8192, 32),
    "hamming 32768": (2, 1, 32768, 32768, 32),
}
_NONE = (None, None, None)
_TRUTH = 256  # number of queries compared with the reference
_RATIO = 0.8


def _case(name: str, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Case:
    kind, B, N, M, D = shape
    generator = torch.Generator().manual_seed(0)
    if kind == 2:
        query, reference = (
            torch.randint(0, 256, (B, n, D), dtype=torch.uint8, generator=generator).to(device)
            for n in (N, M)
        )
    else:
        query, reference = (
            F.normalize(torch.randn(B, n, D, generator=generator), dim=-1).to(device, dtype)
            for n in (N, M)
        )
    if kind == 1:  # half of the queries have a clear partner, or rounding would decide
        reference[:, : M // 2] = query[:, : M // 2] + 0.02 * reference[:, : M // 2]
    functions = (_l2_functions, _matching_functions, _hamming_functions)[kind](B, N, M, device)
    implementations = tuple(Implementation(label, run) for label, run in functions)
    flops = 0.0 if kind == 2 else 2.0 * B * N * M * D
    truth = (_l2_truth, _matching_truth, _hamming_truth)[kind]
    # The expansion |q|^2 + |r|^2 - 2 q.r, which peers use, has about half of the digits.
    tolerance = (1e-3, 2e-3) if kind == 0 else (0.0, 0.0)
    return Case(
        "nearest",
        name,
        (query, reference),
        flops,
        truth,
        implementations,
        backward=False,
        tolerance=tolerance,
    )


Functions = list[tuple[str, Callable[..., Tensor]]]


def _l2_truth(query: Tensor, reference: Tensor) -> Tensor:
    return nearest_reference(query[:, :_TRUTH], reference, 2, 0, *_NONE, False)[0]


def _matching_truth(query: Tensor, reference: Tensor) -> Tensor:
    distance, _, both = nearest_reference(query, reference, 2, 0, *_NONE, True)
    return both & (distance[..., 0] <= _RATIO * distance[..., 1])


def _hamming_truth(query: Tensor, reference: Tensor) -> Tensor:
    return nearest_hamming_reference(query[:, :_TRUTH], reference, 2, *_NONE, False)[0]


def _l2_functions(B: int, N: int, M: int, device: torch.device) -> Functions:
    functions: Functions = [
        ("flowmatch", lambda q, r: nearest(q, r, 2).distance),
        ("torch: matmul + topk in chunks", _chunked_topk),
    ]
    if B * N * M < 2**28:
        functions.append(("torch: cdist + topk", _cdist_topk))
    if device.type != "cpu" or B > 1:
        return functions
    if faiss := _module("faiss"):
        functions.append(("faiss IndexFlatL2", lambda q, r: _faiss(faiss, faiss.IndexFlatL2, q, r)))
    if neighbors := _module("sklearn.neighbors"):
        functions.append(("scikit-learn", lambda q, r: _sklearn(neighbors, q, r)))
    if N * M < 2**28 and (cv2 := _module("cv2")):
        functions.append(("OpenCV BFMatcher", lambda q, r: _opencv(cv2, cv2.NORM_L2, q, r)))
    return functions


def _matching_functions(B: int, N: int, M: int, device: torch.device) -> Functions:
    functions: Functions = [
        ("flowmatch", lambda q, r: _accepted(nearest(q, r, ratio=_RATIO, mutual=True).accepted)),
        ("torch: cdist, topk, min", _cdist_mutual),
    ]
    if kornia := _module("kornia.feature"):
        functions.append(("kornia match_smnn", lambda q, r: _kornia(kornia, q, r)))
    return functions


def _hamming_functions(B: int, N: int, M: int, device: torch.device) -> Functions:
    functions: Functions = [("flowmatch", lambda q, r: nearest(q, r, 2, "hamming").distance)]
    if N * M < 2**28:
        functions.append(("torch: +-1 matmul + topk", _signs_topk))
    if device.type != "cpu":
        return functions
    if faiss := _module("faiss"):
        functions.append(("faiss IndexBinaryFlat", lambda q, r: _faiss_bits(faiss, q, r)))
    if N * M < 2**28 and (cv2 := _module("cv2")):
        functions.append(("OpenCV BFMatcher", lambda q, r: _opencv(cv2, cv2.NORM_HAMMING, q, r)))
    return functions


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _accepted(accepted: Tensor | None) -> Tensor:
    assert accepted is not None
    return accepted


def _chunked_topk(query: Tensor, reference: Tensor) -> Tensor:
    squares = reference.square().sum(-1)[:, None]
    step = max(1, 2**23 // (query.shape[0] * reference.shape[1]))
    parts = []
    for rows in torch.split(query, step, 1):
        scores = torch.baddbmm(squares, rows, reference.transpose(1, 2), alpha=-2)
        best = scores.topk(2, -1, largest=False)[0]
        parts.append((best + rows.square().sum(-1, keepdim=True)).clamp(min=0).sqrt())
    return torch.cat(parts, 1)


def _cdist_topk(query: Tensor, reference: Tensor) -> Tensor:
    return torch.cdist(query, reference).topk(2, -1, largest=False)[0]


def _cdist_mutual(query: Tensor, reference: Tensor) -> Tensor:
    distance = torch.cdist(query, reference)
    best, index = distance.topk(2, -1, largest=False)
    back = distance.argmin(1).gather(1, index[..., 0])
    rows = torch.arange(query.shape[1], device=query.device)
    return (back == rows) & (best[..., 0] <= _RATIO * best[..., 1])


def _kornia(feature: Any, query: Tensor, reference: Tensor) -> Tensor:
    _, pairs = feature.match_smnn(query[0], reference[0], _RATIO)
    accepted = torch.zeros(1, query.shape[1], dtype=torch.bool, device=query.device)
    accepted[0, pairs[:, 0]] = True
    return accepted


def _faiss(faiss: Any, kind: Any, query: Tensor, reference: Tensor) -> Tensor:
    index = kind(query.shape[2])
    index.add(reference[0].float().numpy())
    squares = index.search(query[0].float().numpy(), 2)[0]
    return torch.from_numpy(np.sqrt(np.maximum(squares, 0)))[None]


def _faiss_bits(faiss: Any, query: Tensor, reference: Tensor) -> Tensor:
    index = faiss.IndexBinaryFlat(8 * query.shape[2])
    index.add(reference[0].numpy())
    return torch.from_numpy(index.search(query[0].numpy(), 2)[0])[None]


def _sklearn(neighbors: Any, query: Tensor, reference: Tensor) -> Tensor:
    search = neighbors.NearestNeighbors(n_neighbors=2, algorithm="brute")
    search.fit(reference[0].float().numpy())
    return torch.from_numpy(search.kneighbors(query[0].float().numpy())[0])[None]


def _opencv(cv2: Any, norm: int, query: Tensor, reference: Tensor) -> Tensor:
    matches = cv2.BFMatcher(norm).knnMatch(*(_plain(t) for t in (query, reference)), k=2)
    return torch.tensor([[[m.distance for m in pair] for pair in matches]])


def _plain(descriptors: Tensor) -> Any:
    return (descriptors if descriptors.dtype == torch.uint8 else descriptors.float())[0].numpy()


def _signs_topk(query: Tensor, reference: Tensor) -> Tensor:
    places = torch.arange(8, dtype=torch.uint8, device=query.device)
    q, r = (
        (2 * ((t[..., None] >> places) & 1).flatten(-2).float() - 1) for t in (query, reference)
    )
    most = (q @ r.transpose(1, 2)).topk(2, -1)[0]
    return (q.shape[-1] - most) / 2


SUITE = Suite(_case, "kind,B,N,M,D", _SHAPES)
