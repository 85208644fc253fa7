"""From matches to cameras: a first guess, adjustment, straightening."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flowmatch._opencv import cv2
from flowmatch.stitch.adjust import (
    Array,
    Matched,
    Turning,
    adjust_rotations,
    adjust_scans,
)
from flowmatch.stitch.cameras import Camera, Cameras, resizing
from flowmatch.stitch.matching import Pair, View, fit_pair

WAVES = ("auto", "horizontal", "vertical", "none")
# Of a pair; more cost more than they tell.
_MOST_MATCHES = 250
# Pixels at registration: matched points that miss each other by more are seen as ghosts.
_LARGE_ERROR = 3.0


class _Fit(NamedTuple):
    """What one attempt found: intrinsics and rotations (or maps), or the reason why not."""

    model: str
    intrinsics: list[Array]
    matrices: list[Array]
    error: float
    failure: str | None


def estimate_cameras(
    views: Sequence[View],
    pairs: Sequence[Pair],
    *,
    model: str,
    wave: str,
    confidence: float,
) -> tuple[Cameras, list[str]]:
    """Estimate the cameras of photos that hang together.

    If no camera that only turned explains the matches, affine maps are tried, and the better of
    both is taken.

    Args:
        views: Of one group.
        pairs: Of these views; `first` and `second` count in `views`.
        model: ``"rotation"`` or ``"affine"``.
        wave: How the panorama is straightened: one of `WAVES`.
        confidence: From which on a pair counts.

    Returns:
        The cameras, as many as views and in their order, for the full photos; and messages about
        what did not work on the way.

    Raises:
        ValueError: Nothing worked; it says what was tried.
    """
    best: _Fit | None = None
    tried = []
    for kind in ("affine",) if model == "affine" else ("rotation", "affine"):
        if best is not None and best.error <= _LARGE_ERROR:
            break
        fit = _attempt(kind, views, pairs, confidence)
        reason = fit.failure or f"points miss each other by {fit.error:.1f} pixels"
        tried.append(f"{kind}: {reason}")
        if fit.failure is None and (best is None or fit.error < 0.7 * best.error):
            best = fit
    if best is None:
        raise ValueError(f"no cameras were found ({'; '.join(tried)})")
    messages = []
    if best.model != model:
        messages.append(
            f"no turning camera fits, so photos are moved as scans ({'; '.join(tried)})"
        )
    elif best.error > _LARGE_ERROR:
        messages.append(
            f"matched points miss each other by {best.error:.1f} pixels: the camera moved, or "
            "something in front of it; expect ghosts"
        )
    if best.model == "rotation":
        straight = _straightened(best.matrices, wave)
        if wave == "auto" and _at_a_pole(straight):
            messages.append(
                "the horizon was not found, as where a photo is turned; --wave horizontal insists"
            )
        else:
            best = best._replace(matrices=straight)
    return _full_size(best, views), messages


def _attempt(model: str, views: Sequence[View], pairs: Sequence[Pair], confidence: float) -> _Fit:
    sure = [pair for pair in pairs if pair.confidence >= confidence]
    try:
        if model == "affine":
            # The pairs may have agreed on homographies, of which fewer matches are left then.
            fitted = [fit_pair(pair, views, "affine") for pair in sure]
            agreed = [pair for pair in fitted if pair.confidence >= confidence]
            intrinsics = [np.eye(3) for _ in views]
            matrices = list(adjust_scans(_matched(agreed), len(views), _middle(agreed, len(views))))
            if min(np.linalg.det(some) for some in matrices) < 0.01:
                raise ValueError("a scan would shrink to nothing")
        else:
            intrinsics, matrices = _rotations(views, sure)
    except (ValueError, np.linalg.LinAlgError, cv2.error) as error:
        return _Fit(model, [], [], np.inf, str(error))
    return _Fit(model, intrinsics, matrices, _missed(sure, intrinsics, matrices), None)


def _middle(pairs: Sequence[Pair], views: int) -> int:
    """Return the view that agrees most with all others: it stays upright, they are turned to it."""
    inliers = np.zeros(views, np.int64)
    for pair in pairs:
        inliers[[pair.first, pair.second]] += pair.inliers
    return int(inliers.argmax())


def _rotations(views: Sequence[View], pairs: Sequence[Pair]) -> tuple[list[Array], list[Array]]:
    """Return camera matrices and rotations.

    Raises:
        ValueError: There are none that make sense.
    """
    # Of any type, because OpenCV's stubs know neither optional arguments nor what comes back.
    estimator: Any = cv2.detail.HomographyBasedEstimator()
    done, cameras = estimator.apply(*_for_opencv(views, pairs), None)
    if not done:
        raise ValueError("the pairs do not hang together")
    focal = np.array([camera.focal for camera in cameras], np.float64)
    # The guess is a product of homographies: what is nearest to it among rotations is wanted.
    u, _, v = np.linalg.svd(np.stack([np.asarray(camera.R, np.float64) for camera in cameras]))
    nearest = u @ v
    start = Turning(focal, nearest * np.sign(np.linalg.det(nearest))[:, None, None])
    middles = np.array([view.size for view in views]) / 2 - 0.5
    matched = _matched(pairs)
    matched = matched._replace(
        a=matched.a - middles[matched.first], b=matched.b - middles[matched.second]
    )
    found = adjust_rotations(matched, start)
    for focal_length, view in zip(found.focal, views, strict=True):
        # From 160 degrees to 2 for the longer side.
        if not 0.09 < focal_length / max(view.size) < 30:
            raise ValueError(
                f"the focal length of {view.name} would be {focal_length:.0f} pixels, "
                f"at {view.size[0]} x {view.size[1]}"
            )
    intrinsics = [
        np.array([[f, 0, x], [0, f, y], [0, 0, 1]])
        for f, (x, y) in zip(found.focal, middles, strict=True)
    ]
    return intrinsics, list(found.rotation)


def _matched(pairs: Sequence[Pair]) -> Matched:
    """Return the inliers of all pairs; of many, an even choice."""
    parts = []
    for pair in pairs:
        a, b = (some.astype(np.float64) for some in pair.matches.points(inliers=True))
        if len(a) > _MOST_MATCHES:
            kept = np.linspace(0, len(a) - 1, _MOST_MATCHES).astype(np.intp)
            a, b = a[kept], b[kept]
        parts.append((np.full(len(a), pair.first), np.full(len(a), pair.second), a, b))
    if not parts:
        raise ValueError("no pair agrees")
    return Matched(*(np.concatenate(some) for some in zip(*parts, strict=True)))


def _for_opencv(views: Sequence[View], pairs: Sequence[Pair]) -> Any:
    """Return views and pairs as OpenCV's estimator takes them.

    Its homographies go between coordinates that start in the middle of the images.
    """
    features = []
    for number, view in enumerate(views):
        item = cv2.detail.ImageFeatures()
        item.img_idx, item.img_size = number, view.size
        features.append(item)
    N = len(views)
    matches = [cv2.detail.MatchesInfo() for _ in range(N * N)]
    for pair in pairs:
        i, j = pair.first, pair.second
        matrix = pair.matches.matrix
        assert matrix is not None  # or the pair would not be sure
        matrix = _shift(views[j].size, -0.5) @ matrix @ _shift(views[i].size, 0.5)
        inverse = np.linalg.inv(matrix)
        for source, target, H in ((i, j, matrix), (j, i, inverse)):
            info = matches[source * N + target]
            info.src_img_idx, info.dst_img_idx = source, target
            info.num_inliers = pair.inliers  # the tree that is walked has the largest sum of them
            info.confidence, info.H = pair.confidence, H / H[2, 2]
    return features, matches


def _shift(size: tuple[int, int], share: float) -> Array:
    return np.array([[1, 0, size[0] * share], [0, 1, size[1] * share], [0, 0, 1]])


def _missed(pairs: Sequence[Pair], intrinsics: list[Array], matrices: list[Array]) -> float:
    """Return by how many pixels matched points miss each other: the median of all inliers."""
    distances = []
    # Of both kinds of camera: this times a pixel is where it lies in the panorama.
    maps = [R @ np.linalg.inv(K) for R, K in zip(matrices, intrinsics, strict=True)]
    for pair in pairs:
        a, b = pair.matches.points(inliers=True)
        there = np.linalg.inv(maps[pair.second]) @ maps[pair.first]
        moved = np.concatenate([a, np.ones((len(a), 1))], axis=1) @ there.T
        distances.append(np.hypot(*(moved[:, :2] / moved[:, 2:] - b).T))
    return float(np.median(np.concatenate(distances)))


def _straightened(rotations: list[Array], wave: str) -> list[Array]:
    if wave == "none" or len(rotations) < 2:
        return rotations
    kind = {
        "auto": cv2.detail.WAVE_CORRECT_AUTO,
        "horizontal": cv2.detail.WAVE_CORRECT_HORIZ,
        "vertical": cv2.detail.WAVE_CORRECT_VERT,
    }[wave]
    corrected = cv2.detail.waveCorrect([R.astype(np.float32) for R in rotations], kind)
    return [np.asarray(R, np.float64) for R in corrected]


def _at_a_pole(rotations: list[Array]) -> bool:
    """Return whether photos look up or down on the whole, where projections tear them apart.

    The horizon is what the x axes have in common: with those of a photo in portrait among them, it
    comes out upright.
    """
    x, y, z = np.mean([R[:, 2] for R in rotations], axis=0)
    # All around, the mean is next to nothing and its direction means nothing.
    return bool(abs(y) > max(np.hypot(x, z), 0.1))


def _full_size(fit: _Fit, views: Sequence[View]) -> Cameras:
    """Return cameras for the photos as they are, not as they were looked at."""
    scales = [view.size[0] / view.full[0] for view in views]
    panorama = min(scales)  # an affine panorama is as fine as its finest photo
    cameras = []
    for view, K, matrix, scale in zip(views, fit.intrinsics, fit.matrices, scales, strict=True):
        camera = Camera(view.name, view.full, 1.0, 1.0, (0.0, 0.0), matrix)
        if fit.model == "affine":
            # From the photo to its view, to the panorama of views, to the panorama of photos.
            full = np.linalg.inv(resizing(panorama)) @ matrix @ resizing(scale)
            camera = camera._replace(matrix=full)
        else:
            x, y = ((c + 0.5) / scale - 0.5 for c in (float(K[0, 2]), float(K[1, 2])))
            focal = float(K[0, 0]) / scale
            camera = camera._replace(focal=focal, aspect=float(K[1, 1] / K[0, 0]), center=(x, y))
        cameras.append(camera)
    projection = "plane" if fit.model == "affine" else "spherical"
    return Cameras(fit.model, projection, tuple(cameras), fit.error)
