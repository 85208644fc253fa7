"""``flowmatch fuse``: depth pictures with poses in, surfaces out."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._messages import (
    messages,
    progress_bar,
)
from flowmatch.cli._options import (
    check_target,
)
from flowmatch.geometry import transform_points
from flowmatch.io import CLOUD_SUFFIXES, write_cloud
from flowmatch.registration.integrate import integrate_depth, write_fragments


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="RGB-D frames: depth/, poses.txt, intrinsics.txt.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help=f"A cloud ({', '.join(CLOUD_SUFFIXES)}) for all frames; or a folder, for "
            "fragments with their motions, in the layout of the 3DMatch benchmark.",
            show_default=False,
        ),
    ],
    frames: Annotated[int, typer.Option(min=1, help="In a fragment, if OUTPUT is a folder.")] = 50,
    voxel: Annotated[float, typer.Option(help="Side of the volume's voxels, metres.")] = 0.01,
    truncation: Annotated[
        float, typer.Option(help="Voxels around a surface that know of it.")
    ] = 4.0,
    reach: Annotated[float, typer.Option(help="Depth that is believed at most, metres.")] = 4.0,
    depth_unit: Annotated[float, typer.Option(help="Metres that 1 in a depth picture is.")] = 0.001,
    world: Annotated[
        bool, typer.Option("--world", help="In the world's frame, not the first camera's.")
    ] = False,
) -> None:
    """Fuse RGB-D frames with known poses into one surface, or into fragments of some frames."""
    whole = output.suffix.lower() in CLOUD_SUFFIXES
    if whole:
        check_target(output)
    elif output.is_file() or (output.suffix and not output.is_dir()):
        raise ValueError(
            f"OUTPUT must be a cloud ({', '.join(CLOUD_SUFFIXES)}) or a folder without a suffix, "
            f"got {output}"
        )
    with progress_bar(transient=True) as bar:
        task = bar.add_task("fuse", total=None)
        fragments = integrate_depth(
            folder,
            frames=None if whole else frames,
            voxel=voxel,
            truncation=truncation,
            max_depth=reach,
            unit=depth_unit,
            progress=lambda stage, done, total: bar.update(task, completed=done, total=total),
        )
    if not whole:
        write_fragments(output, fragments)
    else:
        surface, pose, _ = fragments[0]
        write_cloud(output, transform_points(pose, surface.points) if world else surface.points)
    for fragment in fragments:
        said = f"{fragment.frames[0]} to {fragment.frames[-1]}"
        messages.print(f"frames {said}: {len(fragment.surface.points)} points")
