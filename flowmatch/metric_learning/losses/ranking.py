"""Losses of the ranked list of a query."""

import warnings

from flowmatch.metric_learning._extras import metric_learning
from flowmatch.metric_learning.losses._base import WrappedLoss, at_least


class RankedListLoss(WrappedLoss):
    r"""Ranked list loss: positives within a ball around the query, negatives outside a larger one.

    ``mean_i (1 - b) P_i + b N_i``; ``P_i`` the mean of ``d_ij - (a - m)`` over positives beyond
    ``a - m``, ``N_i`` the mean of ``a - d_ij`` over negatives within ``a``, weighted by
    ``e^(T (a - d_ij))``; ``d = |f_i - f_j|``, ``f = x / |x|`` of ``[N, D]``. Positives within the
    inner ball have no gradient, so that a class keeps its structure. Negatives at distance 0, which
    have no direction, are ignored.

    Args:
        alpha: Outer radius ``a``.
        margin: Margin ``m`` between the radii.
        temperature: Temperature ``T``; a larger one emphasises the nearest negatives.
        imbalance: Weight ``b`` of negatives relative to positives.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: An argument is out of range.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> round(RankedListLoss()(x, torch.tensor([0, 0, 1])).item(), 4)
        0.2047

    Reference:
        Wang, Hua, Kodirov, Hu, Garnier & Robertson, Ranked List Loss for Deep Metric Learning, CVPR
        2019; RLL-Simpler.
    """

    def __init__(
        self,
        alpha: float = 1.2,
        margin: float = 0.4,
        temperature: float = 10.0,
        imbalance: float = 0.5,
    ) -> None:
        at_least(0, alpha=alpha, margin=margin, temperature=temperature)
        if not 0 <= imbalance <= 1:
            raise ValueError(f"imbalance must be in 0..1, got {imbalance}")
        with warnings.catch_warnings():
            # The library warns of the paper's temperature, but e^(T a) = e^12 does not overflow.
            warnings.filterwarnings("ignore", message="Values of Tp or Tn are too high")
            wrapped = metric_learning("losses").RankedListLoss(
                margin=margin, Tn=temperature, imbalance=imbalance, alpha=alpha
            )
        super().__init__(wrapped)


class FastAPLoss(WrappedLoss):
    r"""FastAP: one minus the average precision of soft histograms of distances.

    ``1 - mean_i 1/R_i sum_b h+_b H+_b / H_b``, over the bins of squared distances 0..4 of
    ``f = x / |x|`` from query i, ``[N, D]``: ``h+`` counts the R_i positives, each split linearly
    between the two nearest bins, ``H+`` is its cumulative sum, ``H`` that of all items. Items
    without positives are not queries.

    Args:
        bins: Number of intervals between 0 and 4; the histogram has ``bins + 1`` centres.

    Raises:
        ImportError: pytorch-metric-learning is missing.
        ValueError: `bins` is not positive.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
        >>> FastAPLoss()(x, torch.tensor([0, 0, 1])).item()
        0.0

    Reference:
        Cakir, He, Xia, Kulis & Sclaroff, Deep Metric Learning to Rank, CVPR 2019, equation 9.
    """

    def __init__(self, bins: int = 10) -> None:
        at_least(1, bins=bins)
        super().__init__(metric_learning("losses").FastAPLoss(num_bins=bins))
