"""Matching two images: keypoints, descriptors, nearest neighbours, and the geometry behind."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flowmatch._opencv import cv2
from flowmatch.matching.describe import describe
from flowmatch.matching.filter import decide_matches
from flowmatch.matching.keypoints import Keypoints, detect
from flowmatch.matching.networks import DescriptorNetwork, SimilarityNetwork
from flowmatch.ops import nearest

# How many matches each model needs.
MODELS_OF_GEOMETRY = {"homography": 4, "fundamental": 8, "essential": 5}
_CONFIDENCE, _ITERATIONS = 0.9999, 10_000

Intrinsics = tuple[ArrayLike, ArrayLike]


class Features(NamedTuple):
    """The keypoints of an image and their descriptors ``[N, D]``."""

    keypoints: Keypoints
    descriptors: Tensor


class Matches(NamedTuple):
    """What `match_images` found.

    Attributes:
        first: Keypoints of the first image, all of them.
        second: Keypoints of the second image.
        pairs: ``[K, 2]`` int64: which of the first goes with which of the second.
        distance: ``[K]`` float32, between their descriptors.
        inlier: ``[K]`` bool, what the model explains; all, where no model was asked for.
        matrix: ``[3, 3]`` float64 of the model, from the first image to the second; None if none
            was asked for or found.
        model: Its name, or None.
        similarity: ``[K]`` float32, what a decision network said of them; None if none was asked.
    """

    first: Keypoints
    second: Keypoints
    pairs: NDArray[np.int64]
    distance: NDArray[np.float32]
    inlier: NDArray[np.bool_]
    matrix: NDArray[np.float64] | None
    model: str | None
    similarity: NDArray[np.float32] | None = None

    def points(self, *, inliers: bool = False) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the matched points of both images, ``[K, 2]`` twice, or only the inliers."""
        pairs = self.pairs[self.inlier] if inliers else self.pairs
        return self.first.xy[pairs[:, 0]], self.second.xy[pairs[:, 1]]


def match_images(
    network: DescriptorNetwork | str,
    a: ArrayLike,
    b: ArrayLike,
    *,
    detector: str = "sift",
    keypoints: int = 8000,
    ratio: float | None = 0.8,
    mutual: bool = True,
    decide: SimilarityNetwork | str | None = None,
    above: float = 0.0,
    model: str | None = "homography",
    threshold: float = 3.0,
    intrinsics: Intrinsics | None = None,
    magnification: float | None = None,
    batch: int | None = None,
    precision: str = "float32",
) -> Matches:
    """Find which points of one image are which points of another.

    Args:
        network: A descriptor network, used where its weights are; ``"default"``, the one that
            ships, or another of its kind; or ``"rootsift"``, ``"sift"``, ``"orb"``.
        a: First image, uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        b: Second image, of any size.
        detector: ``"sift"``, ``"orb"`` or ``"grid"``, see `detect`.
        keypoints: How many at most in each image, the best ones.
        ratio: Accept a match if it is at most that many times as far as the next best; None takes
            all.
        mutual: Accept a match only if each is the other's nearest.
        decide: A network that is shown the patches of each match, or the name of one that ships
            (``"siam"``, ``"2ch"``); what it finds unlike is rejected.
        above: The similarity that a match must exceed; at 0 both answers are as likely.
        model: What the matches have to agree on: ``"homography"`` (a plane, or a camera that only
            turned), ``"fundamental"`` or ``"essential"`` (any rigid scene), or None.
        threshold: Pixels, how far an inlier may be off.
        intrinsics: Camera matrices ``[3, 3]`` of both images, for ``"essential"``.
        magnification: Half a patch's side in scales of its keypoint, for networks; None takes what
            each was trained on.
        batch: How many patches to describe at once; None takes what suits the device.
        precision: As in `describe`.

    Returns:
        `Matches`, closest first, or with `decide` most similar first; perhaps none, and then
        without a matrix.

    Raises:
        ValueError: An argument is out of range, or an image is none.

    Example:
        >>> texture = np.random.default_rng(0).integers(0, 255, (30, 40), np.uint8)
        >>> image = texture.repeat(8, axis=0).repeat(8, axis=1)
        >>> matches = match_images("rootsift", image[:, :280], image[:, 40:])
        >>> float(matches.matrix[0, 2].round(1))  # 40 pixels to the left
        -40.0

    Reference:
        The ratio test: Lowe, IJCV 2004. MAGSAC++: Barath et al., CVPR 2020, as OpenCV has it.
    """
    check_geometry(model, threshold, intrinsics)
    features = []
    for image in (a, b):
        points = detect(image, detector, keypoints=keypoints)
        descriptors = describe(
            network, image, points, magnification=magnification, batch=batch, precision=precision
        )
        features.append(Features(points, descriptors))
    first, second = features
    pairs, distance = match_features(first, second, ratio=ratio, mutual=mutual)
    similar = None
    if decide is not None:
        pairs, distance, similar = decide_matches(
            decide, (a, b), (first.keypoints, second.keypoints), pairs, distance,
            above=above, magnification=magnification,
        )  # fmt: skip
    found = fit_geometry(
        first.keypoints, second.keypoints, pairs, distance,
        model=model, threshold=threshold, intrinsics=intrinsics,
    )  # fmt: skip
    return found._replace(similarity=similar)


def match_features(
    first: Features, second: Features, *, ratio: float | None = 0.8, mutual: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Match descriptors by distance.

    Args:
        first: Of one image.
        second: Of the other, by the same network.
        ratio: As in `match_images`.
        mutual: As in `match_images`.

    Returns:
        Pairs of indices ``[K, 2]``, closest first, and their distances ``[K]``.

    Raises:
        ValueError: The descriptors do not fit each other.
    """
    q, r = first.descriptors, second.descriptors
    metric = "hamming" if q.dtype == torch.uint8 else "l2"
    found = nearest(q, r, 1, metric, ratio=ratio, mutual=mutual)
    index, distance = found.index[:, 0], found.distance[:, 0].float()
    accepted = index >= 0 if found.accepted is None else found.accepted
    chosen = accepted.nonzero()[:, 0]
    chosen = chosen[distance[chosen].argsort(stable=True)]
    pairs = torch.stack([chosen, index[chosen]], dim=1)
    return pairs.cpu().numpy(), distance[chosen].cpu().numpy()


# ---- Geometry ----------------------------------------------------------------------------------


def check_geometry(
    model: str | None, threshold: float = 3.0, intrinsics: Intrinsics | None = None
) -> None:
    """Refuse a model there is not, before any work is done for it.

    Raises:
        ValueError: There is no such model, it lacks intrinsics, or `threshold` is not positive.
    """
    if model is not None and model not in MODELS_OF_GEOMETRY:
        known = ", ".join(MODELS_OF_GEOMETRY)
        raise ValueError(f"model must be one of {known}, or None, got {model!r}")
    if not 0 < threshold < np.inf:
        raise ValueError(f"threshold must be a positive number of pixels, got {threshold}")
    if model == "essential":
        shapes = [np.shape(K) for K in intrinsics] if intrinsics is not None else None
        if shapes != [(3, 3), (3, 3)]:
            raise ValueError(
                "an essential matrix needs intrinsics, [3, 3] for both images, "
                f"got {'none' if shapes is None else shapes}"
            )


def fit_geometry(
    first: Keypoints,
    second: Keypoints,
    pairs: NDArray[np.int64],
    distance: NDArray[np.float32],
    *,
    model: str | None = "homography",
    threshold: float = 3.0,
    intrinsics: Intrinsics | None = None,
) -> Matches:
    """Find what matches agree on, by MAGSAC++, and which of them do.

    Args:
        first: Keypoints of one image.
        second: Keypoints of the other.
        pairs: ``[K, 2]`` indices into them.
        distance: ``[K]``, passed on.
        model: As in `match_images`.
        threshold: As in `match_images`.
        intrinsics: As in `match_images`.

    Returns:
        `Matches`; without inliers where no model was found.

    Raises:
        ValueError: As `check_geometry` does.
    """
    check_geometry(model, threshold, intrinsics)
    inlier = np.full(len(pairs), model is None)
    matrix = None
    if model is not None and len(pairs) >= MODELS_OF_GEOMETRY[model]:
        points = first.xy[pairs[:, 0]], second.xy[pairs[:, 1]]
        matrix, mask = _fit(model, points, threshold, intrinsics)
        if matrix is not None and mask is not None:
            inlier = np.asarray(mask).ravel() != 0
    return Matches(first, second, pairs, distance, inlier, matrix, model)


def _fit(
    model: str,
    points: tuple[NDArray[np.float32], NDArray[np.float32]],
    threshold: float,
    intrinsics: Intrinsics | None,
) -> tuple[NDArray[np.float64] | None, Any]:
    a, b = (some.astype(np.float64) for some in points)
    if model == "homography":
        matrix, mask = cv2.findHomography(
            a, b, cv2.USAC_MAGSAC, threshold, maxIters=_ITERATIONS, confidence=_CONFIDENCE
        )
    elif model == "fundamental":
        matrix, mask = cv2.findFundamentalMat(
            a, b, cv2.USAC_MAGSAC, threshold, _CONFIDENCE, _ITERATIONS
        )
    else:
        assert intrinsics is not None
        cameras = [np.asarray(K, np.float64) for K in intrinsics]
        # On rays, so that both cameras may differ; the threshold follows their focal lengths.
        a, b = (_rays(xy, K) for xy, K in zip((a, b), cameras, strict=True))
        focal = float(np.mean([K[0, 0] + K[1, 1] for K in cameras]) / 2)
        matrix, mask = cv2.findEssentialMat(
            a, b, np.eye(3), cv2.USAC_MAGSAC, _CONFIDENCE, threshold / focal, _ITERATIONS
        )
    fits = matrix is not None and matrix.shape == (3, 3) and np.isfinite(matrix).all()
    return (np.asarray(matrix, np.float64), mask) if fits else (None, None)


def _rays(xy: NDArray[np.float64], K: NDArray[np.float64]) -> NDArray[np.float64]:
    homogeneous = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
    rays = np.linalg.solve(K, homogeneous.T).T
    return np.asarray(rays[:, :2] / rays[:, 2:])
