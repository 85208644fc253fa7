"""Registration of scans."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmatch.app.tasks.result import TaskResult, show
from flowmatch.io import move_cloud_file, read_cloud, replace_when_done
from flowmatch.progress import ProgressCallback
from flowmatch.registration.draw import draw_merged, draw_registration
from flowmatch.registration.export import summarize_multiway, summarize_registration, write_merged
from flowmatch.registration.graph import register_many
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.register import register_scans
from flowmatch.registration.store import Descriptor, load_descriptor


def registration_of_scans(
    scans: Sequence[Path],
    *,
    folder: Path,
    device: str | None = None,
    model: str = "auto",
    voxel: float | None = None,
    keypoints: int = RegisterOptions.keypoints,
    sampling: str = RegisterOptions.sampling,
    icp: bool = RegisterOptions.icp,
    from_origin: bool = False,
    seed: int = RegisterOptions.seed,
    progress: ProgressCallback | None = None,
) -> TaskResult:
    """Find the rigid motion between scans, and whether to trust it.

    Args:
        scans: Two or more point clouds, metres. Of two, the first is moved onto the second; more
            are merged.
        folder: Folder to write to.
        device: Device of the network; None takes a GPU if there is one.
        model: Descriptor: ``"fpfh"``, a name of weights, or ``"auto"``, which takes the network if
            the result of fpfh is not trusted.
        voxel: Side of the down-sampling voxels, metres; None or 0 goes by the scans.
        keypoints: Maximum number of keypoints per scan.
        sampling: ``"uniform"`` or ``"iss"``.
        icp: Whether motions are refined by ICP.
        from_origin: Whether the sensors stood at the origins of the scans.
        seed: Random seed.
        progress: Called with the number of keypoints described or pairs registered.

    Returns:
        The picture before and after; the moved cloud, the merged cloud and the motion as JSON.

    Raises:
        ValueError: A scan cannot be read, there are fewer than two, or an option is out of range.
    """
    if len(scans) < 2:
        raise ValueError(f"two or more scans are needed, got {len(scans)}")
    options = RegisterOptions(
        voxel=voxel or None, keypoints=keypoints, sampling=sampling, icp=icp, seed=seed
    )
    network = model if model == "auto" else load_descriptor(model, device=device)
    clouds = [read_cloud(path) for path in scans]
    views = [np.zeros(3) if from_origin else None for _ in clouds]
    if len(scans) == 2:
        return _two((network, device), scans, clouds, views, options, folder, progress)
    return _many((network, device), scans, clouds, views, options, folder, progress)


_Clouds = list[NDArray[np.float64]]
_Views = list[NDArray[np.float64] | None]


def _two(
    model: tuple[Descriptor, str | None],
    scans: Sequence[Path],
    clouds: _Clouds,
    views: _Views,
    options: RegisterOptions,
    folder: Path,
    progress: ProgressCallback | None,
) -> TaskResult:
    result = register_scans(
        clouds[0],
        clouds[1],
        model=model[0],
        device=model[1],
        options=options,
        viewpoints=(views[0], views[1]),
        progress=progress,
    )
    moved = folder / f"moved{scans[0].suffix.lower()}"
    lost = move_cloud_file(scans[0], moved, result.motion, frame=scans[1])
    merged, motion = folder / "merged.ply", folder / "motion.json"
    write_merged(merged, scans, [result.motion, np.eye(4)])
    _write_json(
        motion,
        {"source": scans[0].name, "target": scans[1].name} | summarize_registration(result),
    )
    drawn = draw_registration(clouds[0], clouds[1], result)
    picture = folder / "before_and_after.png"
    return TaskResult(
        summary=f"Registration {'accepted' if result.trusted else 'rejected'}: {result.reason}.",
        trusted=result.trusted,
        facts=(
            ("Overlap", f"{result.overlap:.1%}"),
            ("Inliers", f"{result.inliers.sum()} of {len(result.inliers)} correspondences"),
            ("RMSE", f"{result.rmse:.4g} m"),
            ("Voxel", f"{result.voxel:.3g} m"),
            ("Motion", _rows(result.motion)),
        ),
        shown=(
            show(
                picture, drawn,
                f"{scans[0].name} (orange) on {scans[1].name} (blue), before and after",
            ),
        ),
        files=(moved, merged, motion, picture),
        notes=(f"{moved.name} is without {', '.join(lost)}",) if lost else (),
    )  # fmt: skip


def _many(
    model: tuple[Descriptor, str | None],
    scans: Sequence[Path],
    clouds: _Clouds,
    views: _Views,
    options: RegisterOptions,
    folder: Path,
    progress: ProgressCallback | None,
) -> TaskResult:
    result = register_many(
        clouds,
        model=model[0],
        device=model[1],
        options=options,
        viewpoints=views,
        progress=progress,
    )
    placed = np.flatnonzero(result.placed).tolist()
    names = [scan.name for scan in scans]
    moved = [clouds[k] for k in placed]
    files = [scans[k] for k in placed]
    merged, motions = folder / "merged.ply", folder / "motions.json"
    write_merged(merged, files, result.motions[placed], numbers=placed)
    _write_json(motions, summarize_multiway(result, names))
    drawn = draw_merged(moved, result.motions[placed])
    picture = folder / "before_and_after.png"
    return TaskResult(
        summary=f"{len(placed)} of {len(scans)} scans moved onto {names[result.anchor]}.",
        trusted=result.trusted,
        facts=tuple(
            (
                f"{names[edge.source]} on {names[edge.target]}",
                f"{'used' if edge.used else 'not used'}: {edge.registration.reason}",
            )
            for edge in result.edges
        ),
        shown=(show(picture, drawn, "The scans before and after"),),
        files=(merged, motions, picture),
        notes=tuple(
            f"not registered: {name}"
            for name, ok in zip(names, result.placed, strict=True)
            if not ok
        ),
    )


def _rows(matrix: NDArray[np.float64]) -> str:
    return "\n".join(" ".join(f"{value: .5f}" for value in row) for row in matrix.tolist())


def _write_json(path: Path, content: object) -> None:
    with replace_when_done(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
