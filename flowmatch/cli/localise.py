"""``flowmatch localise``: pose of a photo in a place whose pictures have known poses."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from flowmatch.cli._cameras import CAMERA_HELP, camera_matrix, parse_camera
from flowmatch.cli._messages import messages
from flowmatch.cli._options import INPUT, MODEL, DeviceName, JsonFile, check_target
from flowmatch.cli._tables import write_json
from flowmatch.localisation import Localisation, LocaliseOptions, localise_photo

EXAMPLES = (
    "flowmatch index office/color -o office.safetensors",
    "flowmatch localise photo.jpg -i office.safetensors --json pose.json",
)


def command(
    photo: Annotated[Path, typer.Argument(help="Photo whose pose is searched for.")],
    index: Annotated[
        Path,
        typer.Option(
            "-i",
            "--index",
            help="Index that flowmatch index wrote, of the folder color.",
            rich_help_panel=INPUT,
        ),
    ] = Path("index.safetensors"),
    folder: Annotated[
        Path | None,
        typer.Option(
            "--poses",
            metavar="FOLDER",
            help="Folder of the pictures' depth/NAME.png, poses.txt and intrinsics.txt, as "
            "flowmatch fuse reads it; or a model of COLMAP, .bin or .txt.",
            show_default="that above the index's pictures",
            rich_help_panel=INPUT,
        ),
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(
            metavar="FX,FY,CX,CY|FILE",
            help=f"Camera of the photo: {CAMERA_HELP}",
            show_default="intrinsics.txt of the pictures",
            rich_help_panel=INPUT,
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            "-k",
            "--count",
            help="Number of similar pictures that the photo is matched with.",
            rich_help_panel=MODEL,
        ),
    ] = 10,
    threshold: Annotated[
        float,
        typer.Option(help="Maximum error of an inlier, pixels.", rich_help_panel=MODEL),
    ] = 4.0,
    model: Annotated[
        str,
        typer.Option(
            help="Descriptor of the index; needed only if it was a file.",
            show_default="as in the index",
            rich_help_panel=MODEL,
        ),
    ] = "default",
    json: JsonFile = None,
    device: DeviceName = None,
) -> None:
    """Find where a photo was taken, from pictures with known poses.

    Similar pictures are found in the index and matched with the photo; their depth, or a model of
    COLMAP, gives points of the world, and these the pose: a camera-to-world matrix, 4 x 4, in
    metres, or in the unit of the model. The status is 1 if too few pixels agree on a pose.
    """
    check_target(json)
    options = LocaliseOptions(count=count, threshold=threshold)
    K = None if camera is None else camera_matrix(parse_camera(camera))
    answer = localise_photo(
        photo, index, camera=K, folder=folder, model=model, device=device, options=options
    )
    written = json is not None and write_json(json, _content(str(photo), answer))
    if answer.result is not None and not written:
        for row in answer.result.pose:
            typer.echo(" ".join(f"{number:.9g}" for number in row))
    messages.print(_describe(answer))
    if not answer.trusted:
        raise typer.Exit(1)


def _content(photo: str, answer: Localisation) -> dict[str, object]:
    result = answer.result
    content: dict[str, object] = {
        "photo": photo,
        "trusted": answer.trusted,
        "matches": answer.matches,
        "points": answer.points,
        "pictures": [{"name": name, "inliers": count} for name, count in answer.pictures],
    }
    if result is None:
        return content | {"pose": None}
    return content | {
        "pose": result.pose.tolist(),
        "inliers": int(result.inliers.sum()),
        "error_pixels": result.error,
        "rotation_deviation_degrees": float(np.rad2deg(result.rotation_deviation)),
        "position_deviation_metres"
        if answer.metric
        else "position_deviation": result.position_deviation,
    }


def _describe(answer: Localisation) -> str:
    result = answer.result
    if result is None:
        return f"{answer.matches} matches with {len(answer.pictures)} pictures agree on no pose"
    line = (
        f"{answer.points} pixels, by {result.inliers.sum()} of {answer.matches} matches with "
        f"{len(answer.pictures)} pictures, agree on the pose"
    )
    if not answer.trusted:
        return f"{line}: no more than chance explains"
    deviation = result.position_deviation
    length = (
        f"{100 * deviation:.1f} cm" if answer.metric else f"{deviation:.3g} in the model's unit"
    )
    return (
        f"{line}; standard deviation {np.rad2deg(result.rotation_deviation):.2f} degrees, {length}"
    )
