"""Metrics of the 3DMatch benchmark for descriptors and registrations."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

from flowmatch.geometry import invert_motion, transform_points


def inlier_ratio(correspondences: ArrayLike, truth: ArrayLike, tau1: float = 0.1) -> float:
    """Return the share of correspondences whose error under the true motion is below `tau1`.

    Args:
        correspondences: ``[M, 2, 3]``, source and target, metres.
        truth: ``[4, 4]``, source to target.
        tau1: Maximum error of an inlier, metres.

    Returns:
        0 to 1; 0 without correspondences.

    Example:
        >>> inlier_ratio([[[0, 0, 0], [0, 0, 0.05]], [[0, 0, 0], [1, 0, 0]]], np.eye(4))
        0.5
    """
    pairs = np.asarray(correspondences, np.float64)
    if pairs.ndim != 3 or pairs.shape[1:] != (2, 3):
        raise ValueError(f"correspondences must be [M, 2, 3], got {list(pairs.shape)}")
    if len(pairs) == 0:
        return 0.0
    return float(
        (np.linalg.norm(transform_points(truth, pairs[:, 0]) - pairs[:, 1], axis=1) < tau1).mean()
    )


def registration_error(motion: ArrayLike, truth: ArrayLike, information: ArrayLike) -> float:
    """Return the mean square error of a motion, as estimated by the 3DMatch benchmark.

    ``p = e^T L e / L[0, 0]`` with ``e`` the translation and the negative vector part of the
    quaternion of the residual motion, and ``L`` the information matrix of the overlap.

    Args:
        motion: ``[4, 4]``, from the second fragment to the first, as in ``.log`` files.
        truth: The true motion.
        information: ``[6, 6]``, from ``gt.info`` or `agreement.pair_information`.

    Returns:
        Square metres; a registration is correct up to 0.04, which is 20 cm.

    Raises:
        ValueError: Wrong shapes.

    Example:
        >>> moved = np.eye(4)
        >>> moved[0, 3] = 0.1
        >>> round(registration_error(moved, np.eye(4), np.eye(6)), 6)
        0.01

    Reference:
        Choi, Zhou and Koltun, Robust Reconstruction of Indoor Scenes, CVPR 2015, supplement.
    """
    estimate, true, weights = (np.asarray(a, np.float64) for a in (motion, truth, information))
    if estimate.shape != (4, 4) or true.shape != (4, 4) or weights.shape != (6, 6):
        raise ValueError(
            "motion and truth must be [4, 4] and information [6, 6], "
            f"got {list(estimate.shape)}, {list(true.shape)} and {list(weights.shape)}"
        )
    residual = invert_motion(true) @ estimate
    x, y, z, w = Rotation.from_matrix(residual[:3, :3]).as_quat()
    sign = -1.0 if w < 0 else 1.0
    error = np.array([*residual[:3, 3], -sign * x, -sign * y, -sign * z])
    return float(error @ weights @ error / weights[0, 0])
