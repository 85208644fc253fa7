"""Matches of two pictures."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch.app.tasks.result import TaskResult, read_picture, show
from flowmatch.devices import choose_device
from flowmatch.draw import draw_matches
from flowmatch.matching.features import Features
from flowmatch.matching.files import write_matches
from flowmatch.matching.match import match_described
from flowmatch.matching.methods import extract_features, load_methods
from flowmatch.matching.options import MatchOptions
from flowmatch.progress import ProgressCallback


def matches_of_pictures(
    first: Path,
    second: Path,
    *,
    folder: Path,
    device: str | None = None,
    model: str = "default",
    detector: str = MatchOptions.detector,  # type: ignore[assignment]  # its default is a name
    keypoints: int = MatchOptions.keypoints,
    ratio: float = 0.8,
    mutual: bool = MatchOptions.mutual,
    geometry: str = "homography",
    threshold: float = MatchOptions.threshold,
    progress: ProgressCallback | None = None,
) -> TaskResult:
    """Find points of one picture in another.

    Args:
        first: Picture; what is transparent is ignored.
        second: Picture of any size.
        folder: Folder to write to.
        device: Device of the network; None takes a GPU if there is one.
        model: Descriptor: ``"rootsift"``, ``"sift"``, ``"orb"`` or a name of weights.
        detector: Keypoint detector.
        keypoints: Maximum number of keypoints per picture.
        ratio: Threshold of the ratio test; 1 accepts all.
        mutual: Whether only mutual nearest neighbours are accepted.
        geometry: Geometric model of the inliers; ``"none"`` fits none.
        threshold: Maximum error of an inlier, pixels.
        progress: Called with the stages.

    Returns:
        The picture of the matches; the matches as CSV, JSON and NPZ.

    Raises:
        ValueError: A picture cannot be read, or an option is out of range.
    """
    options = MatchOptions(
        detector=detector, keypoints=keypoints, ratio=ratio, mutual=mutual,
        geometry=None if geometry == "none" else geometry, threshold=threshold,
    )  # fmt: skip
    target = choose_device(device)
    methods = load_methods(model, target, options)
    pictures = [read_picture(path) for path in (first, second)]
    features: list[Features] = []
    for picture in pictures:
        if progress:
            progress("keypoints", len(features), len(pictures))
        features.append(extract_features(picture.image, methods.extractor, options, picture.mask))
    if progress:
        progress("matching", 0, None)
    a, b = (picture.image for picture in pictures)
    matches = match_described((features[0], features[1]), options, (a, b), target, methods.matcher)
    names = f"{first.name} {second.name}"
    tables = tuple(folder / f"matches.{suffix}" for suffix in ("csv", "json", "npz"))
    for table in tables:
        write_matches(table, matches, names)
    drawn = draw_matches(a, b, *matches.points(), matches.inliers)
    count, inliers = len(matches.matches), int(matches.inliers.sum())
    found = matches.matrix is not None
    if options.geometry is None:
        summary = f"{count} matches; no geometric model was fitted."
    elif matches.trusted:
        summary = f"{inliers} of {count} matches agree on a {_model(options.geometry)}."
    elif found:
        summary = (
            f"{inliers} of {count} matches agree on a {_model(options.geometry)}: no more than "
            "chance explains."
        )
    else:
        summary = f"{count} matches; no {_model(options.geometry)} agrees with them."
    sizes = [str(len(keypoints.xy)) for keypoints in (matches.keypoints0, matches.keypoints1)]
    facts = [("Keypoints", " and ".join(sizes)), ("Matches", str(count))]
    if options.geometry is not None:
        facts.append(("Inliers", str(inliers)))
    if matches.matrix is not None:
        facts.append((_model(options.geometry).capitalize(), _rows(matches.matrix)))
    return TaskResult(
        summary,
        trusted=matches.trusted,
        facts=tuple(facts),
        shown=(
            show(
                folder / "matches.png", drawn,
                "Green matches agree on the geometric model, red ones do not",
            ),
        ),
        files=(folder / "matches.png", *tables),
    )  # fmt: skip


def _model(geometry: str | None) -> str:
    return "homography" if geometry == "homography" else f"{geometry} matrix"


def _rows(matrix: NDArray[np.float64]) -> str:
    return "\n".join(" ".join(f"{value:11.5g}" for value in row) for row in matrix.tolist())
