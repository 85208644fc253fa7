"""``flowmatch register``: rigid motions between scans."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from flowmatch.cli._messages import StageBars, progress_bar
from flowmatch.cli._options import (
    INPUT,
    KEYPOINTS,
    MODEL,
    OUTPUT,
    DeviceName,
    JsonFile,
    ScanKeypoints,
    ScanSeed,
    ScanVoxel,
    WeightsFile,
    check_target,
)
from flowmatch.cli._registered import Outputs, report_many, report_two
from flowmatch.cli._scans import crop, is_depth_picture, parse_box, read_scans
from flowmatch.io import CLOUD_SUFFIXES, IMAGE_SUFFIXES, MESH_SUFFIXES, SCAN_SUFFIXES, read_motion
from flowmatch.registration.graph import register_many
from flowmatch.registration.options import RegisterOptions
from flowmatch.registration.recording import require_rerun
from flowmatch.registration.register import register_scans
from flowmatch.registration.store import Descriptor, load_descriptor

EXAMPLES = (
    "flowmatch register source.ply target.ply -o moved.ply --picture check.png",
    "flowmatch register 1.ply 2.ply 3.ply -o merged.ply --model fpfh --json motions.json",
)


def command(
    scans: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCAN",
            help=f"Two or more point clouds or meshes ({', '.join(SCAN_SUFFIXES)}, metres) or "
            "depth pictures (.png, with --intrinsics). Of two, the first is moved onto the second; "
            "more are merged.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Cloud to write: the first scan, moved; of more than two, all of them. All rows "
            "are kept, in their order, with all properties that the format holds (colours, "
            "normals, intensity, ...). Of a mesh also a mesh.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Both scans in the cloud of two; those without colours in a colour each.",
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
    scale: Annotated[
        bool,
        typer.Option(
            "--estimate-scale",
            help="Estimation of the scale of the first of two scans, too: photogrammetry, or "
            "another unit. It takes several times as long.",
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
    # A mesh can be moved, but not merged.
    is_moved = len(scans) == 2 and not merge
    check_target(output, (*CLOUD_SUFFIXES, *(MESH_SUFFIXES if is_moved else ())))
    check_target(picture, IMAGE_SUFFIXES)
    check_target(json)
    check_target(recording)
    options = RegisterOptions(
        voxel=voxel, keypoints=keypoints, sampling=sampling, scale=scale, icp=icp, seed=seed
    )
    if len(scans) > 2 and (initial or region or source_region or scale):
        raise ValueError(
            f"--init, --estimate-scale and regions are for two scans, got {len(scans)}"
        )
    if scale and initial is not None:
        raise ValueError("--init fixes the scale: give it or --estimate-scale")
    boxes = [parse_box("--source-region", source_region), parse_box("--region", region)]
    start = None if initial is None else read_motion(initial)
    network: Descriptor = model
    if model != "auto" or weights is not None:
        name = "default" if model == "auto" else model
        network = load_descriptor(name, weights=weights, device=device)
    clouds = read_scans(scans, intrinsics, depth_unit, max_depth)
    views = [np.zeros(3) if from_origin or is_depth_picture(scan) else None for scan in scans]
    outputs = Outputs(output, json, picture, recording, merge)
    with progress_bar(transient=True) as bar:
        if len(scans) == 2:
            parts = [crop(*part) for part in zip(scans, clouds, boxes, strict=True)]
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
        else:
            merged = register_many(
                clouds,
                model=network,
                device=device,
                options=options,
                viewpoints=views,
                progress=StageBars(bar),
            )
    if len(scans) == 2:
        report_two(scans, clouds, result, outputs)
        raise typer.Exit(0 if result.trusted else 1)
    report_many(scans, clouds, merged, outputs)
    raise typer.Exit(0 if merged.trusted else 1)
