"""``flowmatch fuse``: surfaces from depth pictures with poses."""

from pathlib import Path
from typing import Annotated

import typer

from flowmatch.cli._messages import StageBars, messages, progress_bar
from flowmatch.cli._options import INPUT, OUTPUT, check_target
from flowmatch.geometry import transform_points
from flowmatch.io import (
    BARE_SUFFIXES,
    CLOUD_SUFFIXES,
    MESH_SUFFIXES,
    require_trimesh,
    write_cloud,
    write_mesh,
)
from flowmatch.registration.integrate import Fragment, integrate_depth, write_fragments

EXAMPLES = (
    "flowmatch fuse recording -o room.glb --voxel 0.005",
    "flowmatch fuse recording -o fragments --frames-per-fragment 100",
)
VOLUME = "Volume"
MESHES_ONLY = tuple(suffix for suffix in MESH_SUFFIXES if suffix not in CLOUD_SUFFIXES)
# Frames of an office: 0.002; with inverted poses 0.33, with half and twice the unit 0.18 and 0.15.
_CONTRADICTION = 0.08


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
            help=f"Point cloud of all frames ({', '.join(CLOUD_SUFFIXES)}), or a mesh "
            f"({', '.join(MESHES_ONLY)}); or a folder for fragments with their motions, in the "
            "layout of the 3DMatch benchmark, which is created if it does not exist.",
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
    mesh: Annotated[
        bool,
        typer.Option(
            "--mesh", help="Triangle mesh instead of points in a .ply.", rich_help_panel=OUTPUT
        ),
    ] = False,
    min_points: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of points that a connected part must have: smaller ones are specks, and "
            "left out.",
            rich_help_panel=OUTPUT,
        ),
    ] = 50,
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
    """Integrate depth frames with known poses into surfaces.

    With pictures color/NAME.jpg (.png, ...) of the same views, clouds and meshes have colours.
    Clouds also have normals; .npy and .xyz hold points only.
    """
    suffix = output.suffix.lower()
    is_mesh = mesh or suffix in MESHES_ONLY
    is_surface = suffix in CLOUD_SUFFIXES or suffix in MESHES_ONLY
    if is_surface:
        check_target(output)
    elif output.is_file() or (output.suffix and not output.is_dir()):
        raise ValueError(
            f"--output must be a cloud ({', '.join(CLOUD_SUFFIXES)}), a mesh "
            f"({', '.join(MESHES_ONLY)}) or a folder without a suffix, got {output}"
        )
    if mesh and suffix not in MESH_SUFFIXES:
        raise ValueError(f"--mesh needs an --output of {', '.join(MESH_SUFFIXES)}, got {output}")
    if suffix in MESHES_ONLY:
        require_trimesh()
    with progress_bar(transient=True) as bar:
        fragments = integrate_depth(
            folder,
            frames=None if is_surface else frames_per_fragment,
            voxel=voxel,
            truncation=truncation,
            max_depth=max_depth,
            unit=depth_unit,
            mesh=is_mesh,
            min_points=min_points,
            progress=StageBars(bar),
        )
    if is_surface:
        _write_surface(output, fragments[0], world)
    else:
        write_fragments(output, fragments)
    for fragment in fragments:
        names = f"{fragment.frames[0]} to {fragment.frames[-1]}"
        count = f"{len(fragment.surface.points)} points"
        if fragment.faces is not None:
            count += f", {len(fragment.faces)} triangles"
        messages.print(f"frames {names}: {count}")
    worst = max(fragment.contradiction for fragment in fragments)
    if worst > _CONTRADICTION:
        messages.print(
            f"frames contradict each other: half of them have {worst:.0%} or more of their points "
            "where the next one sees free space. Are the poses camera to world, and the depth "
            f"unit ({depth_unit:g} m) right?"
        )


def _write_surface(output: Path, fragment: Fragment, world: bool) -> None:
    points, normals = fragment.surface
    if world:
        points = transform_points(fragment.pose, points)
        normals = normals @ fragment.pose[:3, :3].T
    if fragment.faces is not None:
        write_mesh(output, points, fragment.faces, normals=normals, colours=fragment.colours)
    else:
        is_bare = output.suffix.lower() in BARE_SUFFIXES
        colours = None if is_bare else fragment.colours
        write_cloud(output, points, colours, normals=None if is_bare else normals)
