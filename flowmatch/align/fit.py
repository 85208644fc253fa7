"""From scores of all matches to the transform that most of them agree with."""

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

# How far a match may be from where the others say, in half pictures: first as far as transforms go,
# then somewhat more than the cells of a map, for an affine transform is not all there is.
_TOLERANCES = (0.8, 0.6, 0.45, 0.34, 0.26, 0.2, 0.15, 0.15, 0.15, 0.15)
# Weight of staying where one is, beside all matches together: what they leave open.
_CALM = {AFFINE: 1e-4, THIN_PLATE: 2e-3}


def match_scores(first: Tensor, second: Tensor, sharpness: Tensor | float) -> Tensor:
    """Compare L2-normalised features of all positions, times `sharpness`.

    Args:
        first: ``[B, C, h, w]``.
        second: ``[B, C, h2, w2]``.
        sharpness: What a softmax wants cosines to be multiplied by.

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
    """Return where each position of the first map lies in the second, and how sure that is.

    A match is as sure as it is chosen from both sides: the product of the softmax over the second
    map and the softmax over the first. Its place is the mean over the cells next to the best one.

    Args:
        scores: ``[B, h2 * w2, N]``, such as `match_scores` gives.
        size: ``(h2, w2)``.

    Returns:
        Points in half pictures, ``[B, N, 2]``, and weights in 0 to 1, ``[B, N]``.

    Raises:
        ValueError: `scores` are not of a map of that size.

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
    sure = scores.softmax(1) * scores.softmax(2)
    weight, best = sure.max(1)
    places = pixel_grid(h, w).to(scores)
    cell = places.new_tensor([2 / w, 2 / h])
    near = ((places[:, None] - places[best][:, None]) / cell).abs().amax(-1) <= 1.5
    share = sure * near
    share = share / share.sum(1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
    return share.mT @ places, weight


def fit_transform(kind: int, start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """Fit a transform to weighted matches, many of which may be wrong.

    Least squares, again and again, in which a match that is r from where it should be has the
    weight ``(s^2 / (s^2 + r^2))^2`` more: at a large s all count, at the last one those that agree.

    Args:
        kind: `AFFINE` or `THIN_PLATE`.
        start: ``[N, 2]``, in half pictures.
        end: ``[B, N, 2]``.
        weight: ``[B, N]``, at least 0.

    Returns:
        ``[B, kind]``; the identity where no match has a weight.

    Raises:
        ValueError: There is no such kind.

    Example:
        >>> start = pixel_grid(4, 4)
        >>> end = start + torch.tensor([0.25, 0.0])
        >>> end[3] = 7.0  # one wrong match of 16
        >>> fit_transform(AFFINE, start, end[None], torch.ones(1, 16)).round(decimals=2) + 0
        tensor([[1.0000, 0.0000, 0.2500, 0.0000, 1.0000, 0.0000]])

    Reference:
        Yang et al., Graduated non-convexity for robust spatial perception, RA-L 2020 (its
        Geman-McClure cost).
    """
    still = identity(kind, len(end)).to(end).view(len(end), 2, -1).mT.double()  # [B, K, 2]
    at = start.double()
    if kind == AFFINE:
        basis = torch.cat([at, torch.ones_like(at[:, :1])], 1)
    else:
        basis = thin_plate_basis(at)
    goal, trust = end.double(), weight.double()
    trust = trust / trust.sum(1, keepdim=True).clamp_min(1e-12)
    theta = still
    for tolerance in _TOLERANCES:
        apart = (goal - basis @ theta).square().sum(-1)
        now = trust * (tolerance**2 / (tolerance**2 + apart)).square()
        weighted = basis.mT * now[:, None]
        calm = _CALM[kind] * torch.eye(basis.shape[1]).to(basis)
        theta = torch.linalg.solve(weighted @ basis + calm, weighted @ goal + calm @ still)
    return theta.mT.flatten(1).to(end)
