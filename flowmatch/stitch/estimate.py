"""From matches to cameras: OpenCV's estimators, bundle adjustment and straightening."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.stitch.cameras import Camera, Cameras, resizing
from flowmatch.stitch.matching import Pair, View, fit_pair

WAVES = ("auto", "horizontal", "vertical", "none")
# Bundle adjustment differentiates numerically, camera by camera: more matches cost more than
# they tell.
_MOST_MATCHES = 250
# Pixels at registration: matched points that miss each other by more are seen as ghosts.
_LARGE_ERROR = 3.0
_SMALL_ERROR = 1.5


class _Fit(NamedTuple):
    """What one attempt found: intrinsics and rotations (or maps), or the reason why not."""

    name: str
    model: str
    intrinsics: list[NDArray[np.float64]]
    matrices: list[NDArray[np.float64]]
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

    A camera that only turned is adjusted by rays, or, if that fails, by reprojection. If neither
    explains the matches, affine maps are tried, and the better of both is taken.

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
    for name in ("affine",) if model == "affine" else ("ray", "reproj", "affine"):
        # Reprojection often ends at the same place, and is quick; an affine map is no camera.
        if best is not None and best.error <= (_LARGE_ERROR if name == "affine" else _SMALL_ERROR):
            break
        fit = _attempt(name, views, pairs, confidence)
        tried.append(
            f"{name}: {fit.failure or f'points miss each other by {fit.error:.1f} pixels'}"
        )
        if fit.failure is None and (best is None or fit.error < 0.7 * best.error):
            best = fit
    if best is None:
        raise ValueError(f"no cameras were found ({'; '.join(tried)})")
    messages = []
    if best.name == "affine" != model:
        messages.append(
            f"no turning camera fits, so photos are moved as scans ({'; '.join(tried)})"
        )
    elif best.error > _LARGE_ERROR:
        messages.append(
            f"matched points miss each other by {best.error:.1f} pixels: the camera moved, or "
            "something in front of it; expect ghosts"
        )
    if best.model == "rotation":
        best = best._replace(matrices=_straightened(best.matrices, wave))
    return _full_size(best, views), messages


def _attempt(name: str, views: Sequence[View], pairs: Sequence[Pair], confidence: float) -> _Fit:
    affine = name == "affine"
    if affine:  # the pairs may have agreed on homographies
        pairs = [fit_pair(pair, views, "affine") for pair in pairs]
    sure = [pair for pair in pairs if pair.confidence >= confidence]
    model = "affine" if affine else "rotation"
    failed = _Fit(name, model, [], [], np.inf, None)
    features, matches = _for_opencv(views, sure, centered=not affine)
    # Of any type, because OpenCV's stubs know neither optional arguments nor what comes back.
    make: Any = cv2.detail.AffineBasedEstimator if affine else cv2.detail.HomographyBasedEstimator
    try:
        done, cameras = make().apply(features, matches, None)
    except cv2.error as error:
        return failed._replace(failure=f"first estimate failed ({error.err})")
    if not done:
        return failed._replace(failure="first estimate failed: the pairs do not hang together")
    for camera in cameras:
        camera.R = np.asarray(camera.R, np.float32)
    done, cameras = _adjust(name, features, matches, cameras, confidence)
    if not done:
        return failed._replace(failure="bundle adjustment did not converge")
    intrinsics = [np.asarray(camera.K(), np.float64) for camera in cameras]
    matrices = [np.asarray(camera.R, np.float64) for camera in cameras]
    if not all(np.isfinite(some).all() for some in matrices):
        return failed._replace(failure="bundle adjustment gave no numbers")
    if affine:
        # OpenCV's affine maps lead from the panorama to the photo.
        matrices = [np.asarray(np.linalg.inv(some), np.float64) for some in matrices]
        intrinsics = [np.eye(3) for _ in cameras]
    elif not all(map(_sane, intrinsics, views)):
        return failed._replace(failure="focal lengths are out of range")
    missed = _missed(sure, intrinsics, matrices)
    return _Fit(name, model, intrinsics, matrices, missed, None)


def _adjust(name: str, features: Any, matches: Any, cameras: Any, confidence: float) -> Any:
    kinds: dict[str, Callable[[], Any]] = {
        "ray": cv2.detail.BundleAdjusterRay,
        "reproj": cv2.detail.BundleAdjusterReproj,
        "affine": cv2.detail.BundleAdjusterAffinePartial,
    }
    adjuster = kinds[name]()
    adjuster.setConfThresh(confidence)
    # Of reprojection: focal length, principal point and aspect; photos seldom tell the last three.
    refine = np.zeros((3, 3), np.uint8)
    refine[0, 0] = 1
    adjuster.setRefinementMask(refine)
    try:
        return adjuster.apply(features, matches, cameras)
    except cv2.error:
        return False, cameras


def _for_opencv(views: Sequence[View], pairs: Sequence[Pair], *, centered: bool) -> Any:
    """Return views and pairs as OpenCV's detail pipeline takes them.

    Homographies go between coordinates that start in the middle of the images, affine maps
    between pixels.
    """
    features = []
    for number, view in enumerate(views):
        item = cv2.detail.ImageFeatures()
        item.img_idx, item.img_size = number, view.size
        item.keypoints = [cv2.KeyPoint(x, y, 1.0) for x, y in view.features.keypoints.xy.tolist()]
        features.append(item)
    N = len(views)
    matches = [cv2.detail.MatchesInfo() for _ in range(N * N)]
    for pair in pairs:
        i, j = pair.first, pair.second
        matrix = pair.matches.matrix
        assert matrix is not None  # or the pair would not be sure
        if centered:
            matrix = _shift(views[j].size, -0.5) @ matrix @ _shift(views[i].size, 0.5)
        kept = pair.matches.pairs[pair.matches.inlier]
        if len(kept) > _MOST_MATCHES:
            kept = kept[np.linspace(0, len(kept) - 1, _MOST_MATCHES).astype(np.intp)]
        inverse = np.linalg.inv(matrix)
        both = ((i, j, matrix, kept), (j, i, inverse / inverse[2, 2], kept[:, ::-1]))
        for source, target, H, index in both:
            info = matches[source * N + target]
            info.src_img_idx, info.dst_img_idx = source, target
            info.matches = [cv2.DMatch(a, b, 0.0) for a, b in index.tolist()]
            info.inliers_mask = np.ones(len(index), np.uint8)
            info.num_inliers = pair.inliers  # all of them choose the tree that is walked first
            info.confidence, info.H = pair.confidence, H
    return features, matches


def _shift(size: tuple[int, int], share: float) -> NDArray[np.float64]:
    return np.array([[1, 0, size[0] * share], [0, 1, size[1] * share], [0, 0, 1]])


def _sane(K: NDArray[np.float64], view: View) -> bool:
    """Tell whether a focal length is one of a lens: from 160 degrees to 2 for the longer side."""
    ratio = K[0, 0] / max(view.size)
    return bool(np.isfinite(K).all() and 0.09 < ratio < 30)


def _missed(
    pairs: Sequence[Pair], intrinsics: list[NDArray[Any]], matrices: list[NDArray[Any]]
) -> float:
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


def _straightened(rotations: list[NDArray[np.float64]], wave: str) -> list[NDArray[np.float64]]:
    if wave == "none" or len(rotations) < 2:
        return rotations
    kind = {
        "auto": cv2.detail.WAVE_CORRECT_AUTO,
        "horizontal": cv2.detail.WAVE_CORRECT_HORIZ,
        "vertical": cv2.detail.WAVE_CORRECT_VERT,
    }[wave]
    corrected = cv2.detail.waveCorrect([R.astype(np.float32) for R in rotations], kind)
    return [np.asarray(R, np.float64) for R in corrected]


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
