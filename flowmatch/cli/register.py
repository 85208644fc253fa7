"""``flowmatch register``: scans in, the rigid motions between them out."""

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from flowmatch.cli._messages import (
    messages,
    progress_bar,
)
from flowmatch.cli._options import (
    DeviceName,
    WeightsFile,
    check_target,
)
from flowmatch.io import (
    CLOUD_SUFFIXES,
    IMAGE_SUFFIXES,
    depth_to_points,
    read_cloud,
    read_depth,
    read_intrinsics,
    replace_when_done,
    write_image,
)
from flowmatch.registration.draw import draw_merged, draw_registration
from flowmatch.registration.export import (
    summarize_multiway,
    summarize_registration,
    write_moved,
)
from flowmatch.registration.graph import register_many
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.recording import record_merged, record_registration, require_rerun
from flowmatch.registration.register import register_scans
from flowmatch.registration.store import Descriptor, load_descriptor

Scans = list[NDArray[np.float64]]


class _Wanted(NamedTuple):
    """What is to be written, and where."""

    output: Path | None
    as_json: Path | None
    picture: Path | None
    recording: Path | None
    merge: bool


def command(
    scans: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCAN SCAN...",
            help=f"Clouds ({', '.join(CLOUD_SUFFIXES)}, metres) or depth pictures (.png with "
            "--intrinsics). Two: the first is laid on the second. More: all are laid together.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Cloud to write: the first scan moved; of more, all."),
    ] = None,
    as_json: Annotated[
        Path | None, typer.Option("--json", help="File for the motions, 4 x 4, and what was found.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Picture of before and after, from three sides.")
    ] = None,
    recording: Annotated[
        Path | None, typer.Option("--rerun", help="Recording for the rerun viewer, .rrd.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="With two scans, too, write both, in two colours.")
    ] = False,
    descriptor: Annotated[
        str, typer.Option(help="Weights that ship, by name, or fpfh; default is the best.")
    ] = "default",
    weights: WeightsFile = None,
    device: DeviceName = None,
    intrinsics: Annotated[
        Path | None, typer.Option(help="Camera matrix of depth pictures, 3 x 3 or fx fy cx cy.")
    ] = None,
    depth_unit: Annotated[float, typer.Option(help="Metres that 1 in a depth picture is.")] = 0.001,
    from_origin: Annotated[
        bool,
        typer.Option("--from-origin", help="The sensors stood at the origins: better normals."),
    ] = False,
    voxel: Annotated[
        float | None, typer.Option(help="Down-sampling, metres; else by the scans' size.")
    ] = None,
    keypoints: Annotated[
        int, typer.Option(help="Most points of a scan that are described.")
    ] = RegisterOptions.keypoints,
    sampling: Annotated[str, typer.Option(help="Of keypoints: uniform or iss.")] = "uniform",
    refine: Annotated[str, typer.Option(help="auto, gicp (small-gicp), icp or none.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of keypoints and RANSAC.")] = 0,
) -> None:
    """Find the rigid motion between scans, whatever their position, and say whether to trust it.

    The status is 0 if the result is trusted, and 1 if not; what was asked for is written anyway.
    """
    if len(scans) < 2:
        raise ValueError(f"two or more scans are needed, got {len(scans)}")
    if recording is not None:
        require_rerun()
    check_target(output, CLOUD_SUFFIXES)
    check_target(picture, IMAGE_SUFFIXES)
    check_target(as_json)
    check_target(recording)
    options = RegisterOptions(
        voxel=voxel, keypoints=keypoints, sampling=sampling, icp=refine, seed=seed
    )
    network = load_descriptor(descriptor, weights=weights, device=device)
    clouds, depth = _read(scans, intrinsics, depth_unit)
    views = [np.zeros(3) if from_origin or is_depth else None for is_depth in depth]
    wanted = _Wanted(output, as_json, picture, recording, merge)
    run = _pair if len(scans) == 2 else _many
    trusted = run(network, scans, clouds, views, options, wanted)
    raise typer.Exit(0 if trusted else 1)


def _read(paths: list[Path], intrinsics: Path | None, unit: float) -> tuple[Scans, list[bool]]:
    depth = [path.suffix.lower() == ".png" for path in paths]
    if any(depth) and intrinsics is None:
        raise ValueError("depth pictures need --intrinsics")
    camera = read_intrinsics(intrinsics) if intrinsics is not None else np.eye(3)
    clouds = [
        depth_to_points(read_depth(path, unit), camera) if is_depth else read_cloud(path)
        for path, is_depth in zip(paths, depth, strict=True)
    ]
    for path, cloud in zip(paths, clouds, strict=True):
        if len(cloud) < 10:
            raise ValueError(f"{path}: a scan needs 10 points, got {len(cloud)}")
    return clouds, depth


def _pair(
    network: Descriptor,
    paths: list[Path],
    clouds: Scans,
    views: list[NDArray[np.float64] | None],
    options: RegisterOptions,
    wanted: _Wanted,
) -> bool:
    with progress_bar(transient=True) as bar:
        task = bar.add_task("describe", total=None)
        found = register_scans(
            clouds[0],
            clouds[1],
            model=network,
            options=options,
            viewpoints=(views[0], views[1]),
            progress=lambda stage, done, total: bar.update(task, completed=done, total=total),
        )
    if wanted.output is not None and wanted.merge:
        write_moved(wanted.output, clouds, [found.motion, np.eye(4)], colours=[0, 1])
    elif wanted.output is not None:
        write_moved(wanted.output, clouds[:1], [found.motion])
    if wanted.as_json is not None:
        about = {"source": str(paths[0]), "target": str(paths[1])}
        _write_json(wanted.as_json, about | summarize_registration(found))
    if wanted.picture is not None:
        write_image(wanted.picture, draw_registration(clouds[0], clouds[1], found))
    if wanted.recording is not None:
        record_registration(wanted.recording, clouds[0], clouds[1], found)
    # A rotation of six digits shifts what is 5000 km from the origin, as in UTM, by metres.
    digits = 6 if max(np.abs(cloud).max() for cloud in clouds) < 1000 else 12
    rows = found.motion.tolist()
    typer.echo("\n".join(" ".join(f"{x: .{digits}f}" for x in row) for row in rows))
    messages.print(f"registration {'accepted' if found.trusted else 'rejected'}: {found.reason}")
    return found.trusted


def _many(
    network: Descriptor,
    paths: list[Path],
    clouds: Scans,
    views: list[NDArray[np.float64] | None],
    options: RegisterOptions,
    wanted: _Wanted,
) -> bool:
    with progress_bar(transient=True) as bar:
        tasks: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done)

        merged = register_many(
            clouds, model=network, options=options, viewpoints=views, progress=progress
        )
    kept = np.flatnonzero(merged.placed).tolist()
    if wanted.output is not None:
        moved = [clouds[k] for k in kept]
        write_moved(wanted.output, moved, merged.motions[kept], colours=kept)
    if wanted.as_json is not None:
        _write_json(wanted.as_json, summarize_multiway(merged, [str(path) for path in paths]))
    if wanted.picture is not None:
        write_image(wanted.picture, draw_merged([clouds[k] for k in kept], merged.motions[kept]))
    if wanted.recording is not None:
        names = [f"{k} {paths[k].name}" for k in kept]
        record_merged(
            wanted.recording, [clouds[k] for k in kept], list(merged.motions[kept]), names
        )
    for edge in merged.edges:
        state = "used" if edge.used else "not used"
        name = f"{paths[edge.source].name} on {paths[edge.target].name}"
        messages.print(f"{name}: {state}, {edge.registration.reason}")
    lost = [str(path) for path, placed in zip(paths, merged.placed, strict=True) if not placed]
    verdict = "registration accepted" if merged.trusted else "registration incomplete"
    said = f"{len(kept)} of {len(paths)} scans laid on {paths[merged.anchor].name}"
    messages.print(f"{verdict}: {said}" + (f"; no place for {', '.join(lost)}" if lost else ""))
    return merged.trusted


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replace_when_done(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
