"""``flowmatch fuse``: surfaces from depth pictures with poses."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._messages import StageBars, messages, progress_bar
from flowmatch.cli._options import INPUT, OUTPUT, check_target
from flowmatch.geometry import transform_points
from flowmatch.io import CLOUD_SUFFIXES, write_cloud
from flowmatch.registration.integrate import integrate_depth, write_fragments

EXAMPLES = (
    "flowmatch fuse recording -o surface.ply --voxel 0.005",
    "flowmatch fuse recording -o fragments --frames-per-fragment 100",
)
VOLUME = "Volume"


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of RGB-D frames: depth/, poses.txt, intrinsics.txt.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help=f"Point cloud of all frames ({', '.join(CLOUD_SUFFIXES)}); or a folder for "
            "fragments with their motions, in the layout of the 3DMatch benchmark, which is "
            "created if it does not exist.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ],
    world: Annotated[
        bool,
        typer.Option(
            "--world",
            help="Points in the frame of the world, instead of the first camera's.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    frames_per_fragment: Annotated[
        int,
        typer.Option(
            min=1, help="Number of frames per fragment, for a folder.", rich_help_panel=OUTPUT
        ),
    ] = 50,
    depth_unit: Annotated[
        float,
        typer.Option(help="Metres per unit of the depth pictures.", rich_help_panel=INPUT),
    ] = 0.001,
    max_depth: Annotated[
        float,
        typer.Option(
            help="Depth beyond which measurements are ignored, metres.", rich_help_panel=INPUT
        ),
    ] = 4.0,
    voxel: Annotated[
        float, typer.Option(help="Side of a voxel, metres.", rich_help_panel=VOLUME)
    ] = 0.01,
    truncation: Annotated[
        float,
        typer.Option(
            help="Distance from a surface at which the volume is truncated, in voxels.",
            rich_help_panel=VOLUME,
        ),
    ] = 4.0,
) -> None:
    """Integrate depth frames with known poses into surfaces."""
    is_cloud = output.suffix.lower() in CLOUD_SUFFIXES
    if is_cloud:
        check_target(output)
    elif output.is_file() or (output.suffix and not output.is_dir()):
        raise ValueError(
            f"--output must be a cloud ({', '.join(CLOUD_SUFFIXES)}) or a folder without a suffix, "
            f"got {output}"
        )
    with progress_bar(transient=True) as bar:
        fragments = integrate_depth(
            folder,
            frames=None if is_cloud else frames_per_fragment,
            voxel=voxel,
            truncation=truncation,
            max_depth=max_depth,
            unit=depth_unit,
            progress=StageBars(bar),
        )
    if not is_cloud:
        write_fragments(output, fragments)
    else:
        surface, pose, _ = fragments[0]
        write_cloud(output, transform_points(pose, surface.points) if world else surface.points)
    for fragment in fragments:
        names = f"{fragment.frames[0]} to {fragment.frames[-1]}"
        messages.print(f"frames {names}: {len(fragment.surface.points)} points")
