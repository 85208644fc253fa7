"""Whether to trust a registration."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch.geometry import Matrix
from flowmatch.registration.agreement import Agreement

# On frames of an office, described by the shipped network: 19 correct motions of frames that
# overlap by a fifth to two thirds had a support of 2 to 436, 14 of them more than 10. Of 40 pairs
# of frames without overlap the maximum was 8; a cabinet mistaken for a sofa had 12.
_MIN_SUPPORT = 9.0
# If two descriptors find the same motion, their supports add up. Of wrong motions both found one in
# an office, a table for another, with a sum of 2.8.
_MIN_SHARED_SUPPORT = 5.0
# If they find different motions, one is wrong: between different rooms the network alone had
# a support of 9.1 and 12.2.
_MIN_DISPUTED_SUPPORT = 20.0
_MIN_INLIERS = 10
MIN_SLIP_EIGENVALUE = 0.002
# A small thing on a table: 0.0007, a support of 140 to 250, a standard error of 0.02 voxels.
# Wrong motions in an office: a support of 15 or less, an error of 0.05 voxels or more.
_MIN_SURE_SLIP_EIGENVALUE = 0.0003
_MIN_SURE_SUPPORT = 50.0
_MAX_SLIP_ERROR = 0.05  # voxels, standard error of the motion along which the surfaces slip most
_MAX_RIVAL = 0.7  # of the best motion's support
# In rooms of which only the walls are alike, the next motion overlapped by 0.93 of the best one's
# or more; in 64 correct registrations of an office, a hall and a room by 0.74 or less.
_MAX_RIVAL_OVERLAP = 0.85


class Candidate(NamedTuple):
    """A motion that may lay one scan on the other.

    Attributes:
        motion: ``[4, 4]``, source to target.
        inliers: Which correspondences agree with it.
        fit: Agreement of the surfaces.
        support: Number of inliers times the balanced overlap.
    """

    motion: Matrix
    inliers: NDArray[np.bool_]
    fit: Agreement
    support: float


def _holds(best: Candidate, fit: Agreement, shared: float, voxel: float) -> bool:
    """Return whether the surfaces hold each other in all six directions.

    A small share of the surfaces is enough if very many correspondences agree, and the surfaces'
    noise leaves the motion hardly any play.
    """
    if fit.slip_eigenvalue >= MIN_SLIP_EIGENVALUE:
        return True
    if fit.slip_eigenvalue < _MIN_SURE_SLIP_EIGENVALUE or best.support < _MIN_SURE_SUPPORT:
        return False
    error = fit.rmse / np.sqrt(fit.slip_eigenvalue * shared)
    return bool(error < _MAX_SLIP_ERROR * voxel)


def judge(
    candidates: list[Candidate],
    fit: Agreement,
    shared: float,
    voxel: float,
    support: float,
    count: int,
    confirmed: bool | None,
) -> tuple[bool, str]:
    """Return whether a registration is accepted, and the reason.

    Args:
        candidates: The distinct candidates, the one with most support first.
        fit: Agreement of the first one after the final refinement.
        shared: Number of points in the overlap.
        voxel: Side of the down-sampling voxels, metres.
        support: Support of the first one, with that of another descriptor which found the same.
        count: Number of inliers, the same.
        confirmed: Whether another descriptor found the same motion; None without another one.
    """
    best, others = candidates[0], candidates[1:]
    rival = max((other.support for other in others), default=0.0) / max(best.support, 1e-9)
    # Chance matches on what was moved may add to the support of one of two motions that the
    # surfaces show to be equal.
    twin = max((other.fit.balanced for other in others), default=0.0)
    twin /= max(best.fit.balanced, 1e-9)
    agreeing = f"{best.inliers.sum()} of {len(best.inliers)} correspondences agree"
    summary = f"{agreeing}, overlap {fit.overlap:.0%}"
    if confirmed:
        summary += ", another descriptor finds the same motion"
    if count < _MIN_INLIERS:
        return False, f"{summary}: fewer than {_MIN_INLIERS} inliers may be due to chance"
    least = {None: _MIN_SUPPORT, True: _MIN_SHARED_SUPPORT, False: _MIN_DISPUTED_SUPPORT}
    if support < least[confirmed]:
        return (
            False,
            f"{summary}, mostly on flat surfaces: scans without overlap get as much support",
        )
    if not _holds(best, fit, shared, voxel):
        return False, (
            f"{summary}: degenerate geometry: motion unconstrained along a surface "
            f"(slip eigenvalue {fit.slip_eigenvalue:.4f})"
        )
    if rival > _MAX_RIVAL:
        return False, f"{summary}: ambiguous: another motion fits nearly as well ({rival:.0%})"
    if twin > _MAX_RIVAL_OVERLAP:
        return False, (
            f"{summary}: ambiguous: on another motion the surfaces overlap as well ({twin:.0%})"
        )
    # From a metre on, the scans are large or not in metres.
    rmse = f"{1000 * fit.rmse:.0f} mm" if fit.rmse < 1 else f"{fit.rmse:.4g} in the scans' unit"
    return True, (f"{summary}, rmse {rmse}; the next-best motion has {rival:.0%} of its support")
