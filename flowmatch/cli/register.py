"""``flowmatch register``: rigid motions between scans."""

from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from flowmatch.cli._messages import StageBars, messages, progress_bar
from flowmatch.cli._options import (
    INPUT,
    KEYPOINTS,
    MODEL,
    OUTPUT,
    STDOUT,
    DeviceName,
    JsonFile,
    ScanKeypoints,
    ScanSeed,
    ScanVoxel,
    WeightsFile,
    check_target,
)
from flowmatch.cli._tables import write_json
from flowmatch.io import (
    CLOUD_SUFFIXES,
    IMAGE_SUFFIXES,
    depth_to_points,
    move_cloud_file,
    read_cloud,
    read_depth,
    read_intrinsics,
    read_motion,
    write_image,
)
from flowmatch.registration.draw import draw_merged, draw_registration
from flowmatch.registration.export import summarize_multiway, summarize_registration, write_moved
from flowmatch.registration.graph import register_many
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.recording import record_merged, record_registration, require_rerun
from flowmatch.registration.register import register_scans
from flowmatch.registration.store import Descriptor, load_descriptor

EXAMPLES = (
    "flowmatch register source.ply target.ply -o moved.ply --picture check.png",
    "flowmatch register 1.ply 2.ply 3.ply -o merged.ply --model fpfh --json motions.json",
)
Scans = list[NDArray[np.float64]]


class _Outputs(NamedTuple):
    """Files to write.

    Attributes:
        cloud: Cloud of the moved scans.
        json: JSON file; - is stdout.
        picture: Picture of the scans before and after.
        recording: Recording for the rerun viewer.
        merge: Whether the cloud of two scans holds both.
    """

    cloud: Path | None
    json: Path | None
    picture: Path | None
    recording: Path | None
    merge: bool


def command(
    scans: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCAN",
            help=f"Two or more point clouds ({', '.join(CLOUD_SUFFIXES)}, metres) or depth "
            "pictures (.png, with --intrinsics). Of two, the first is moved onto the second; more "
            "are merged.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Cloud to write: the first scan, moved; of more than two, all of them. From .ply "
            "or .pcd to .ply or .pcd the first scan keeps all rows in their order and all "
            "properties (colours, normals, intensity, ...) but lists. All other clouds hold the "
            "finite points only, those of several scans in a .ply with a colour for each scan.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Both scans in the cloud of two, in two colours.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    json: JsonFile = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Picture of the scans before and after, from three sides.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    recording: Annotated[
        Path | None,
        typer.Option(
            "--rerun",
            metavar="FILE",
            help="Recording for the rerun viewer, .rrd.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    intrinsics: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Camera matrix of depth pictures: a text file of 3 x 3 numbers, or fx fy cx cy.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    depth_unit: Annotated[
        float,
        typer.Option(help="Metres per unit of the depth pictures.", rich_help_panel=INPUT),
    ] = 0.001,
    max_depth: Annotated[
        float | None,
        typer.Option(
            help="Depth of depth pictures beyond which measurements are ignored, metres.",
            show_default="no limit",
            rich_help_panel=INPUT,
        ),
    ] = None,
    initial: Annotated[
        Path | None,
        typer.Option(
            "--init",
            metavar="FILE",
            help="Initial motion of the first of two scans, refined instead of searched for: a "
            "text of 4 x 4 numbers, as the command prints it. It may be off by 8 voxels.",
            show_default=False,
            rich_help_panel=INPUT,
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,Z,X,Y,Z",
            help="Box of the second scan to register to: its least and its largest coordinates.",
            show_default="all points",
            rich_help_panel=INPUT,
        ),
    ] = None,
    source_region: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,Z,X,Y,Z",
            help="Box of the first scan to register; all of it is moved.",
            show_default="all points",
            rich_help_panel=INPUT,
        ),
    ] = None,
    from_origin: Annotated[
        bool,
        typer.Option(
            "--from-origin",
            help="Sensors at the origins of the scans, which gives better normals.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    model: Annotated[
        str,
        typer.Option(
            help="Descriptor: fpfh, a name that flowmatch weights list prints, or a .safetensors "
            "file; auto: fpfh and, if its result is not trusted, the default network.",
            rich_help_panel=MODEL,
        ),
    ] = "auto",
    weights: WeightsFile = None,
    device: DeviceName = None,
    voxel: ScanVoxel = None,
    keypoints: ScanKeypoints = RegisterOptions.keypoints,
    sampling: Annotated[
        str,
        typer.Option(help="Keypoint sampling: uniform or iss.", rich_help_panel=KEYPOINTS),
    ] = RegisterOptions.sampling,
    icp: Annotated[
        bool,
        typer.Option(help="Refinement by generalised ICP (small-gicp).", rich_help_panel=KEYPOINTS),
    ] = RegisterOptions.icp,
    seed: ScanSeed = RegisterOptions.seed,
) -> None:
    """Find the rigid motion between scans, and say whether to trust it.

    The scans may have any position. The status is 1 if the result is not to be trusted; all files
    are written anyway.
    """
    if len(scans) < 2:
        raise ValueError(f"two or more scans are needed, got {len(scans)}")
    if recording is not None:
        require_rerun()
    check_target(output, CLOUD_SUFFIXES)
    check_target(picture, IMAGE_SUFFIXES)
    check_target(json)
    check_target(recording)
    options = RegisterOptions(
        voxel=voxel, keypoints=keypoints, sampling=sampling, icp=icp, seed=seed
    )
    if len(scans) > 2 and (initial or region or source_region):
        raise ValueError(f"--init and regions are for two scans, got {len(scans)}")
    boxes = [_box("--source-region", source_region), _box("--region", region)]
    start = None if initial is None else read_motion(initial)
    network: Descriptor = model
    if model != "auto" or weights is not None:
        name = "default" if model == "auto" else model
        network = load_descriptor(name, weights=weights, device=device)
    clouds, is_depth = _read(scans, intrinsics, depth_unit, max_depth)
    views = [np.zeros(3) if from_origin or depth else None for depth in is_depth]
    outputs = _Outputs(output, json, picture, recording, merge)
    if len(scans) == 2:
        parts = [_crop(*some) for some in zip(scans, clouds, boxes, strict=True)]
        trusted = _register_two(
            network, device, scans, clouds, parts, start, views, options, outputs
        )
    else:
        trusted = _register_many(network, device, scans, clouds, views, options, outputs)
    raise typer.Exit(0 if trusted else 1)


def _read(
    paths: list[Path], intrinsics: Path | None, unit: float, max_depth: float | None
) -> tuple[Scans, list[bool]]:
    """Read scans; also return which of them are depth pictures."""
    is_depth = [path.suffix.lower() == ".png" for path in paths]
    if any(is_depth) and intrinsics is None:
        raise ValueError("depth pictures need --intrinsics")
    camera = read_intrinsics(intrinsics) if intrinsics is not None else np.eye(3)
    clouds = [
        depth_to_points(read_depth(path, unit, max_depth), camera) if depth else read_cloud(path)
        for path, depth in zip(paths, is_depth, strict=True)
    ]
    for path, cloud in zip(paths, clouds, strict=True):
        if len(cloud) < 10:
            raise ValueError(f"{path}: a scan needs 10 points, got {len(cloud)}")
    return clouds, is_depth


def _box(option: str, text: str | None) -> NDArray[np.float64] | None:
    """Return the corners of a region, ``[2, 3]``."""
    if text is None:
        return None
    try:
        corners = np.array(text.split(","), np.float64).reshape(2, 3)
    except ValueError:
        raise ValueError(f"{option} must be six numbers X,Y,Z,X,Y,Z, got {text!r}") from None
    if not (corners[0] < corners[1]).all():  # also for NaN
        raise ValueError(f"{option} must have its least coordinates first, got {text!r}")
    return corners


def _crop(
    path: Path, cloud: NDArray[np.float64], box: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    if box is None:
        return cloud
    inside = ((cloud >= box[0]) & (cloud <= box[1])).all(axis=1)
    if inside.sum() < 10:
        low, high = cloud.min(0).round(3).tolist(), cloud.max(0).round(3).tolist()
        raise ValueError(
            f"{path}: a region needs 10 points, got {inside.sum()}; all are from {low} to {high}"
        )
    kept: NDArray[np.float64] = cloud[inside]
    return kept


def _register_two(
    network: Descriptor,
    device: str | None,
    paths: list[Path],
    clouds: Scans,
    parts: Scans,
    start: NDArray[np.float64] | None,
    views: list[NDArray[np.float64] | None],
    options: RegisterOptions,
    outputs: _Outputs,
) -> bool:
    with progress_bar(transient=True) as bar:
        result = register_scans(
            parts[0],
            parts[1],
            model=network,
            device=device,
            options=options,
            viewpoints=(views[0], views[1]),
            initial=start,
            progress=StageBars(bar),
        )
    if outputs.cloud is not None and outputs.merge:
        write_moved(outputs.cloud, clouds, [result.motion, np.eye(4)], colours=[0, 1])
    elif outputs.cloud is not None:
        _write_first(paths[0], clouds[0], result.motion, outputs.cloud)
    if outputs.json is not None:
        names = {"source": str(paths[0]), "target": str(paths[1])}
        write_json(outputs.json, names | summarize_registration(result))
    if outputs.picture is not None:
        write_image(outputs.picture, draw_registration(clouds[0], clouds[1], result))
    if outputs.recording is not None:
        record_registration(outputs.recording, clouds[0], clouds[1], result)
    if outputs.json != STDOUT:
        # With six digits, a rotation shifts points 5000 km from the origin, as in UTM, by metres.
        digits = 6 if max(np.abs(cloud).max() for cloud in clouds) < 1000 else 12
        rows = result.motion.tolist()
        typer.echo("\n".join(" ".join(f"{x: .{digits}f}" for x in row) for row in rows))
    verdict = "accepted" if result.trusted else "rejected"
    messages.print(f"registration {verdict}: {result.reason}")
    return result.trusted


def _write_first(
    source: Path, cloud: NDArray[np.float64], motion: NDArray[np.float64], target: Path
) -> None:
    """Write the first scan, moved; with all its properties if the formats hold them."""
    if {source.suffix.lower(), target.suffix.lower()} <= {".ply", ".pcd"}:
        lost = move_cloud_file(source, target, motion)
        if lost:
            messages.print(f"{target}: without {', '.join(lost)} of {source}")
    else:
        write_moved(target, [cloud], [motion])


def _register_many(
    network: Descriptor,
    device: str | None,
    paths: list[Path],
    clouds: Scans,
    views: list[NDArray[np.float64] | None],
    options: RegisterOptions,
    outputs: _Outputs,
) -> bool:
    with progress_bar(transient=True) as bar:
        merged = register_many(
            clouds,
            model=network,
            device=device,
            options=options,
            viewpoints=views,
            progress=StageBars(bar),
        )
    placed = np.flatnonzero(merged.placed).tolist()
    moved = [clouds[k] for k in placed]
    if outputs.cloud is not None:
        write_moved(outputs.cloud, moved, merged.motions[placed], colours=placed)
    if outputs.json is not None:
        write_json(outputs.json, summarize_multiway(merged, [str(path) for path in paths]))
    if outputs.picture is not None:
        write_image(outputs.picture, draw_merged(moved, merged.motions[placed]))
    if outputs.recording is not None:
        names = [f"{k} {paths[k].name}" for k in placed]
        record_merged(outputs.recording, moved, list(merged.motions[placed]), names)
    for edge in merged.edges:
        state = "used" if edge.used else "not used"
        name = f"{paths[edge.source].name} on {paths[edge.target].name}"
        messages.print(f"{name}: {state}, {edge.registration.reason}")
    verdict = "accepted" if merged.trusted else "incomplete"
    line = f"{len(placed)} of {len(paths)} scans moved onto {paths[merged.anchor].name}"
    lost = [str(path) for path, ok in zip(paths, merged.placed, strict=True) if not ok]
    if lost:
        line += f"; not registered: {', '.join(lost)}"
    messages.print(f"registration {verdict}: {line}")
    return merged.trusted
