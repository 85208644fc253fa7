"""Localisation of held-out frames, beside retrieval alone and a regression of poses."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]
from torch import nn

from flowmatch.geometry import rotation_angle
from flowmatch.io import list_images
from flowmatch.io._files import FilePath
from flowmatch.io.masked import read_masked
from flowmatch.localisation.colmap_model import ColmapModel
from flowmatch.localisation.evaluation.regression import train_regression
from flowmatch.localisation.localise import Localisation, LocaliseOptions, localise_photo
from flowmatch.localisation.posed_folder import PosedFolder
from flowmatch.progress import ProgressCallback
from flowmatch.retrieval import load_describer
from flowmatch.retrieval.index import Entry, Index

RIGHT_DEGREES, RIGHT_METRES = 5.0, 0.05
"""Largest errors of a right pose: those of the 7-Scenes dataset."""
_DEFAULTS = LocaliseOptions()


class PoseScores(NamedTuple):
    """Errors of a method's poses; frames without a pose count as infinitely wrong.

    Attributes:
        median_degrees: Median error of the rotation, degrees; NaN if it is of no pose.
        largest_degrees: Largest error of the rotation.
        median_metres: Median error of the position, metres.
        largest_metres: Largest error of the position.
        right: Number of poses within 5 degrees and 5 cm.
        trusted: Number of trusted poses; None if the method does not say.
        wrong_trusted: Number of trusted poses that are not right.
    """

    median_degrees: float
    largest_degrees: float
    median_metres: float
    largest_metres: float
    right: int
    trusted: int | None = None
    wrong_trusted: int | None = None


class LocalisationScores(NamedTuple):
    """Scores of the methods.

    Attributes:
        frames: Names of the held-out frames.
        indexed: Number of the other frames.
        methods: Scores by the name of the method. ``localise``, ``most similar picture`` (its
            pose), ``regression``, and the last on the frames that it was trained on.
    """

    frames: list[str]
    indexed: int
    methods: dict[str, PoseScores]


def evaluate(
    folder: PosedFolder | FilePath,
    every: int = 8,
    *,
    sparse: ColmapModel | FilePath | None = None,
    model: str | Path | nn.Module = "default",
    device: str | torch.device | None = None,
    options: LocaliseOptions = _DEFAULTS,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> LocalisationScores:
    """Localise frames of a folder by its other frames.

    Args:
        folder: Folder of pictures with depth and poses.
        every: The first of so many frames is held out, in the order of their names.
        sparse: Model of COLMAP of the other frames. Points are then taken from it, not from the
            depth, and its unit and axes are fitted to the poses of the folder.
        model: Model of the index, as `build_index` takes it.
        device: Device of the networks; None takes a GPU if torch can use one.
        options: Options of the localisation.
        seed: Seed of the regression's training.
        progress: Called after each picture.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is damaged, `every` is less than 2, there are fewer than two frames, or
            the model of COLMAP has a frame that is held out.

    Reference:
        Shotton et al., Scene Coordinate Regression Forests, CVPR 2013 (5 degrees and 5 cm);
        Sattler et al., Understanding the Limitations of CNN-based Absolute Camera Pose Regression,
        CVPR 2019.
    """
    if every < 2:
        raise ValueError(f"every must be at least 2, got {every}")
    posed = folder if isinstance(folder, PosedFolder) else PosedFolder(folder)
    root = Path(posed.folder) / "color"
    paths = [path for path in list_images(root) if path.stem in posed.poses]
    if len(paths) < 2:
        raise ValueError(f"{root}: expected at least two pictures with poses, got {len(paths)}")
    held_out = paths[::every]
    others = [path for k, path in enumerate(paths) if k % every]
    truth = [posed.poses[path.stem] for path in held_out]
    world = posed if sparse is None else sparse
    if sparse is not None:
        world = sparse if isinstance(sparse, ColmapModel) else ColmapModel(sparse)
        _check_held_out(world, [path.name for path in held_out])

    describer = load_describer(model, device=device)
    describer.fit(read_masked(path).image for path in others)
    rows = []
    for k, path in enumerate(others):
        rows.append(describer(read_masked(path).image).float())
        _report(progress, "describe", k + 1, len(others))
    descriptors = torch.stack(rows)
    entries = [Entry(path.name, 0, 0) for path in others]
    index = Index(describer.about, root, entries, descriptors.half(), state=describer.state())

    found, queries = [], []
    for k, path in enumerate(held_out):
        image = read_masked(path).image
        queries.append(describer(image).float())
        if queries[-1].any():
            answer = localise_photo(
                image, index, folder=world, model=model, device=device, options=options
            )
        else:  # nothing in it can be described
            answer = Localisation(None, 0, 0, [])
        found.append(answer)
        _report(progress, "localise", k + 1, len(held_out))

    poses = [None if answer.result is None else answer.result.pose for answer in found]
    if isinstance(world, ColmapModel):
        poses = in_metres(poses, world, posed)
    known = [posed.poses[path.stem] for path in others]
    similar = [
        posed.poses[Path(answer.pictures[0][0]).stem] if answer.pictures else None
        for answer in found
    ]
    network = train_regression(descriptors, known, seed)
    methods = {
        "localise": score(poses, truth, [answer.trusted for answer in found]),
        "most similar picture": score(similar, truth),
        "regression": score(list(network.poses(torch.stack(queries))), truth),
        "regression, trained frames": score(list(network.poses(descriptors)), known),
    }
    return LocalisationScores([path.stem for path in held_out], len(others), methods)


def _check_held_out(model: ColmapModel, names: Sequence[str]) -> None:
    seen = [name for name in names if name in model.poses]
    if seen:
        raise ValueError(
            f"{model.folder}: expected a model without the frames that are held out, got "
            f"{', '.join(seen[:5])}{' and others' if len(seen) > 5 else ''}"
        )


def in_metres(
    poses: Sequence[NDArray[np.float64] | None], model: ColmapModel, posed: PosedFolder
) -> list[NDArray[np.float64] | None]:
    """Transform poses in a model of COLMAP to the axes and the unit of recorded poses.

    The rotation is the mean of those between the frames' poses in both; the scale and the shift
    are fitted to the positions of the frames by least squares.

    Args:
        poses: Camera-to-world motions ``[4, 4]`` in the model; None stays None.
        model: The model.
        posed: Recorded poses, of two of the model's frames at least.

    Raises:
        ValueError: Fewer than two frames of the model have recorded poses, or all are at one place.
    """
    frames = [(name, posed.key(name)) for name in model.poses if posed.key(name) in posed.poses]
    ours = np.array([model.poses[name] for name, _ in frames]).reshape(-1, 4, 4)
    theirs = np.array([posed.poses[key] for _, key in frames]).reshape(-1, 4, 4)
    spread = ours[:, :3, 3] - ours[:, :3, 3].mean(0) if len(ours) else np.zeros((0, 3))
    if len(ours) < 2 or not spread.any():
        raise ValueError(
            f"{model.folder}: expected two frames or more that have recorded poses, at different "
            f"places, got {len(ours)}"
        )
    turns = theirs[:, :3, :3] @ ours[:, :3, :3].swapaxes(1, 2)
    turn = Rotation.from_matrix(turns).mean().as_matrix()
    turned = ours[:, :3, 3] @ turn.T
    scale = ((spread @ turn.T) * theirs[:, :3, 3]).sum() / (spread**2).sum()
    shift = (theirs[:, :3, 3] - scale * turned).mean(0)
    results: list[NDArray[np.float64] | None] = []
    for pose in poses:
        if pose is None:
            results.append(None)
            continue
        result = np.eye(4)
        result[:3, :3] = turn @ pose[:3, :3]
        result[:3, 3] = scale * (turn @ pose[:3, 3]) + shift
        results.append(result)
    return results


def score(
    poses: Sequence[NDArray[np.float64] | None],
    truth: Sequence[NDArray[np.float64]],
    trusted: Sequence[bool] | None = None,
) -> PoseScores:
    """Compare poses with the true ones.

    Args:
        poses: Camera-to-world motions ``[4, 4]``, metres; None where there is none.
        truth: The true ones.
        trusted: Whether each is trusted; None if the method does not say.

    Example:
        >>> moved = np.eye(4)
        >>> moved[0, 3] = 0.04
        >>> scores = score([moved, None], [np.eye(4), np.eye(4)], [True, False])
        >>> scores.right, scores.trusted, scores.wrong_trusted
        (1, 1, 0)
    """
    degrees, metres = np.full(len(truth), np.inf), np.full(len(truth), np.inf)
    for k, (pose, true) in enumerate(zip(poses, truth, strict=True)):
        if pose is not None:
            angle = rotation_angle(torch.from_numpy(pose), torch.from_numpy(true))
            degrees[k] = np.rad2deg(float(angle))
            metres[k] = np.linalg.norm(pose[:3, 3] - true[:3, 3])
    right = (degrees <= RIGHT_DEGREES) & (metres <= RIGHT_METRES)
    kept = None if trusted is None else np.asarray(trusted, np.bool_)
    return PoseScores(
        *_median_and_largest(degrees),
        *_median_and_largest(metres),
        right=int(right.sum()),
        trusted=None if kept is None else int(kept.sum()),
        wrong_trusted=None if kept is None else int((kept & ~right).sum()),
    )


def _median_and_largest(errors: NDArray[np.float64]) -> tuple[float, float]:
    median, largest = float(np.median(errors)), float(errors.max())
    return (
        median if np.isfinite(median) else float("nan"),
        largest if np.isfinite(largest) else float("nan"),
    )


def _report(progress: ProgressCallback | None, stage: str, done: int, total: int) -> None:
    if progress is not None:
        progress(stage, done, total)
