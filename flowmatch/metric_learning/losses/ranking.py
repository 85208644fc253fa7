"""Losses of the whole ranked list that a query gives."""

import warnings

from flowmatch.metric_learning._extras import metric_learning
from flowmatch.metric_learning.losses._base import WrappedLoss, at_least


class RankedListLoss(WrappedLoss):
    r"""Ranked list: positives within a ball around the query, negatives outside a larger one.

    ``mean_i (1 - b) P_i + b N_i``; ``P_i`` the mean of ``d_ij - (a - m)`` over the same class
    beyond ``a - m``, ``N_i`` the mean of ``a - d_ij`` over others within ``a``, weighted by
    ``e^(T (a - d_ij))``; ``d = |f_i - f_j|``, ``f = x / |x|`` of ``[N, D]``. Within the inner ball
    nothing is pulled: a class keeps its own structure. Others at distance 0, which cannot be pushed
    in any direction, do not count.

    Args:
        alpha: ``a``, the outer radius.
        margin: ``m``.
        temperature: ``T``; the nearest negatives weigh most.
        imbalance: ``b``.

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
            # Warned of is the paper's own temperature; e^(T a) = e^12 does not overflow.
            warnings.filterwarnings("ignore", message="Values of Tp or Tn are too high")
            wrapped = metric_learning("losses").RankedListLoss(
                margin=margin, Tn=temperature, imbalance=imbalance, alpha=alpha
            )
        super().__init__(wrapped)


class FastAPLoss(WrappedLoss):
    r"""FastAP: average precision of soft histograms of distances, as a loss.

    ``1 - mean_i 1/R_i sum_b h+_b H+_b / H_b``, over the bins of squared distances 0..4 of
    ``f = x / |x|`` from query i, ``[N, D]``: ``h+`` counts the R_i others of its class, each shared
    linearly by the two bins beside it, ``H+`` those up to the bin, ``H`` all up to the bin. Items
    alone in their class are no queries.

    Args:
        bins: Between 0 and 4; there are ``bins + 1`` centres.

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
