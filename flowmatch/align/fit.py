"""Robust fit of a transform to the correlation scores of all matches."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.align.transforms import (
    AFFINE,
    THIN_PLATE,
    identity,
    pixel_grid,
    thin_plate_basis,
)

# Scales of the robust loss, in half images: at first as large as the transforms, in the end
# somewhat larger than a cell of the feature map, because an affine fit is only an approximation.
_SCALES = (0.8, 0.6, 0.45, 0.34, 0.26, 0.2, 0.15, 0.15, 0.15, 0.15)
# Weight of the identity prior relative to all matches together: it fixes what they leave open.
_PRIOR = {AFFINE: 1e-4, THIN_PLATE: 2e-3}


def match_scores(first: Tensor, second: Tensor, sharpness: Tensor | float) -> Tensor:
    """Return the cosine similarity of features at all pairs of positions, times `sharpness`.

    Args:
        first: ``[B, C, h, w]``.
        second: ``[B, C, h2, w2]``.
        sharpness: Inverse temperature of the softmax over the scores.

    Returns:
        ``[B, h2 * w2, h * w]`` float32.

    Example:
        >>> match_scores(torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1, 2), 10.0)
        tensor([[[10.0000],
                 [10.0000]]])
    """
    a, b = (
        F.normalize(features.float(), dim=1, eps=1e-6).flatten(2) for features in (first, second)
    )
    # Autocast would round cosines to three digits.
    with torch.autocast(a.device.type, enabled=False):
        return (b.mT @ a) * sharpness


def best_matches(scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the best match of each position of the first map, and its confidence.

    The confidence is the dual softmax: the product of the softmax over the second map and the
    softmax over the first. The match is the confidence-weighted mean over the cells adjacent to the
    best one.

    Args:
        scores: ``[B, h2 * w2, N]``, from `match_scores`.
        size: ``(h2, w2)``.

    Returns:
        Points in half images, ``[B, N, 2]``, and confidences in 0 to 1, ``[B, N]``.

    Raises:
        ValueError: `scores` do not have ``h2 * w2`` rows.

    Example:
        >>> best_matches(9 * torch.eye(2)[None], (1, 2))[0].round(decimals=1) + 0  # no -0
        tensor([[[-0.5000,  0.0000],
                 [ 0.5000,  0.0000]]])

    Reference:
        Sun et al., LoFTR, CVPR 2021, section 3.3 (dual softmax).
    """
    h, w = size
    if scores.dim() != 3 or scores.shape[1] != h * w:
        raise ValueError(f"expected scores of {h} x {w} positions, got {tuple(scores.shape)}")
    confidence = scores.softmax(1) * scores.softmax(2)
    weight, best = confidence.max(1)
    places = pixel_grid(h, w).to(scores)
    cell = places.new_tensor([2 / w, 2 / h])
    near = ((places[:, None] - places[best][:, None]) / cell).abs().amax(-1) <= 1.5
    share = confidence * near
    share = share / share.sum(1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
    return share.mT @ places, weight


def fit_transform(kind: int, start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """Fit a transform to weighted matches with many outliers.

    Iteratively reweighted least squares with the Geman-McClure loss: a residual r has the weight
    ``(s^2 / (s^2 + r^2))^2``. The scale s decreases, so that at first all matches count, in the end
    only those that agree.

    Args:
        kind: `AFFINE` or `THIN_PLATE`.
        start: ``[N, 2]``, in half images.
        end: ``[B, N, 2]``.
        weight: ``[B, N]``, at least 0.

    Returns:
        ``[B, kind]``; the identity if all weights are 0.

    Raises:
        ValueError: Unknown kind.

    Example:
        >>> start = pixel_grid(4, 4)
        >>> end = start + torch.tensor([0.25, 0.0])
        >>> end[3] = 7.0  # one wrong match of 16
        >>> fit_transform(AFFINE, start, end[None], torch.ones(1, 16)).round(decimals=2) + 0
        tensor([[1.0000, 0.0000, 0.2500, 0.0000, 1.0000, 0.0000]])

    Reference:
        Yang et al., Graduated non-convexity for robust spatial perception, RA-L 2020.
    """
    neutral = identity(kind, len(end)).to(end).view(len(end), 2, -1).mT.double()  # [B, K, 2]
    at = start.double()
    if kind == AFFINE:
        basis = torch.cat([at, torch.ones_like(at[:, :1])], 1)
    else:
        basis = thin_plate_basis(at)
    goal, confidence = end.double(), weight.double()
    confidence = confidence / confidence.sum(1, keepdim=True).clamp_min(1e-12)
    prior = _PRIOR[kind] * torch.eye(basis.shape[1]).to(basis)
    theta = neutral
    for scale in _SCALES:
        square = (goal - basis @ theta).square().sum(-1)
        robust = confidence * (scale**2 / (scale**2 + square)).square()
        weighted = basis.mT * robust[:, None]
        theta = torch.linalg.solve(weighted @ basis + prior, weighted @ goal + prior @ neutral)
    return theta.mT.flatten(1).to(end)
