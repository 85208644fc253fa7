"""Options that several commands share, each with one meaning, and checks of output paths."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from flowmatch.io import white_level

INPUT = "Input"
OUTPUT = "Output"
MODEL = "Network and device"
QUALITY = "Quality and speed"
FLOW_SWITCHES = "For experts: replaces a part of --quality"
KEYPOINTS = "Keypoints and matches"
TRAINING = "Training"
DATA = "Training data"
METHODS = "Methods"

STDOUT = Path("-")


def check_weights_file(path: Path | None) -> Path | None:
    """Return the path of a .safetensors file.

    Raises:
        ValueError: The file has another suffix; the message says how to convert it.
    """
    if path is not None and path.suffix.lower() != ".safetensors":
        raise ValueError(
            f"{path}: expected weights in a .safetensors file; for a published checkpoint run "
            f"`flowmatch weights convert {path} -o {path.with_suffix('.safetensors').name}` first"
        )
    return path


ModelName = Annotated[
    str,
    typer.Option(
        help="Network: a name that flowmatch weights list prints, or a file of weights: "
        ".safetensors, or as others published them.",
        rich_help_panel=MODEL,
    ),
]
WeightsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with weights for --model: .safetensors, or as others published them.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
ScanVoxel = Annotated[
    float | None,
    typer.Option(
        help="Side of the down-sampling voxels, metres.",
        show_default="by the size of the scans",
        rich_help_panel=KEYPOINTS,
    ),
]
ScanKeypoints = Annotated[
    int, typer.Option(help="Maximum number of keypoints per scan.", rich_help_panel=KEYPOINTS)
]
ScanSeed = Annotated[
    int,
    typer.Option(
        min=0, help="Random seed for keypoint sampling and RANSAC.", rich_help_panel=KEYPOINTS
    ),
]
DeviceName = Annotated[
    str | None,
    typer.Option(
        help="Device: cpu, cuda, cuda:1, mps, xpu or any other of torch.",
        show_default="a GPU if torch can use one",
        rich_help_panel=MODEL,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        help="Precision of convolutions: float32, bfloat16 or float16.", rich_help_panel=MODEL
    ),
]
FlowQuality = Annotated[
    str,
    typer.Option(
        "--quality",
        help="Quality of each flow: fast (the network alone), good (also DIS, a classical method; "
        "refined, chosen at each pixel) or best (also frames of twice the size).",
        rich_help_panel=QUALITY,
    ),
]
Refine = Annotated[
    bool | None,
    typer.Option(
        "--refine/--no-refine",
        help="Refinement of each flow by a variational method: slower, better below a pixel.",
        show_default="not for fast",
        rich_help_panel=FLOW_SWITCHES,
    ),
]
Zoom = Annotated[
    float,
    typer.Option(
        help="Factor by which frames are enlarged for the network, at most 4: finds small objects "
        "that move fast.",
        rich_help_panel=FLOW_SWITCHES,
    ),
]
WithDis = Annotated[
    bool | None,
    typer.Option(
        "--with-dis/--no-with-dis",
        help="Choice between the network's flow and that of DIS, at each pixel.",
        show_default="not for fast",
        rich_help_panel=FLOW_SWITCHES,
    ),
]
FrameRange = Annotated[
    str,
    typer.Option(
        metavar="FIRST:STOP",
        help="Range of frames, from the number FIRST to the one before STOP, such as 100:200 or "
        "100: for the rest.",
        show_default="all frames",
        rich_help_panel=INPUT,
    ),
]


def _take_white(context: typer.Context, white: int | None) -> int | None:
    context.with_resource(white_level(white))
    return white


WhiteLevel = Annotated[
    int | None,
    typer.Option(
        "--white",
        callback=_take_white,
        min=1,
        max=65535,
        help="Value of white in pictures of 16 bits, such as 4095 for 12 bits stored in 16.",
        show_default="as the file states, or 65535",
        rich_help_panel=INPUT,
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE|-",
        help="JSON file to write; - prints JSON on stdout, instead of anything else.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
PhotosFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder of photographs; without it, textures are procedural.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
CutoutsFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder of objects to move over the photographs: PNG pictures with alpha.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Render = Annotated[
    str,
    typer.Option(
        help="Rendering of pairs: workers (OpenCV, one by one) or device (torch, whole batches).",
        rich_help_panel=DATA,
    ),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Masks of the images, a.png for a.jpg: what is black is neither matched nor shown in "
        "panoramas. Images without a mask are taken whole.",
        show_default=False,
        rich_help_panel=KEYPOINTS,
    ),
]
DetectorName = Annotated[
    str,
    typer.Option(
        "--detector",
        help="Keypoint detector: sift, orb, grid; by kornia keynet; by kornia disk, aliked or "
        "xfeat, which describe their keypoints themselves.",
        rich_help_panel=KEYPOINTS,
    ),
]
DetectorWeights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with the weights of a detector of kornia, as its authors published them.",
        show_default="kornia's download",
        rich_help_panel=KEYPOINTS,
    ),
]
MatcherName = Annotated[
    str,
    typer.Option(
        "--matcher",
        help="Matcher: nearest, the nearest descriptors; by kornia lightglue (for disk, aliked, "
        "xfeat, and sift with --model rootsift) or loftr (without keypoints).",
        rich_help_panel=KEYPOINTS,
    ),
]
MatcherWeights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with the weights of a matcher of kornia, as its authors published them.",
        show_default="kornia's download",
        rich_help_panel=KEYPOINTS,
    ),
]
Magnification = Annotated[
    float | None,
    typer.Option(
        help="Half the side of a patch, in keypoint scales.",
        show_default="as the network was trained",
        rich_help_panel=KEYPOINTS,
    ),
]
OutputFolder = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        help="Folder for the weights and the checkpoint; it is created if it does not exist.",
        show_default=False,
    ),
]
SheetFile = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        help="Picture to write.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.", rich_help_panel=DATA)]
StartWeights = Annotated[
    Path | None,
    typer.Option(
        "--start",
        metavar="WEIGHTS",
        callback=check_weights_file,
        help="File with the weights that the training starts from, .safetensors.",
        show_default=False,
        rich_help_panel=TRAINING,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continuation of an interrupted training from its checkpoint.",
        rich_help_panel=TRAINING,
    ),
]
TrainingPrecision = Annotated[
    str,
    typer.Option(
        "--precision", help="Precision of convolutions: bfloat16 or float32.", rich_help_panel=MODEL
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        min=0, help="Number of processes that make training samples.", rich_help_panel=DATA
    ),
]


def parse_frames(text: str) -> tuple[int, int | None]:
    """Return the first frame and the one to stop before, of ``FIRST:STOP``; either may be missing.

    Example:
        >>> parse_frames("10:20"), parse_frames(":5"), parse_frames("7:")
        ((10, 20), (0, 5), (7, None))

    Raises:
        ValueError: The text has another form.
    """
    first, colon, stop = (part.strip() for part in text.partition(":"))
    if not colon or not all(part.isdecimal() for part in (first, stop) if part):
        raise ValueError(f"--frames must be FIRST:STOP, such as 0:500 or 500:, got {text!r}")
    return int(first or 0), int(stop) if stop else None


def check_target(path: Path | None, suffixes: Collection[str] = ()) -> None:
    """Raise an error, before any work is done, for a file that could not be written.

    Folders are not created for files: a missing one is more often a typing error.

    Args:
        path: File to write; None, and - for stdout, are accepted.
        suffixes: Accepted suffixes; none accepts all.
    """
    if path is None or path == STDOUT:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        accepted = ", ".join(dict.fromkeys(suffixes))
        raise ValueError(f"{path}: expected a name ending in one of {accepted}")
    from flowmatch.io._files import check_writable

    check_writable(path)


def check_output_folder(folder: Path, file_suffixes: Collection[str] = ()) -> None:
    """Raise an error for an output folder that is a file, or is named like one.

    Args:
        folder: Folder to write to; a missing one is created later, with its parents.
        file_suffixes: Suffixes of files; a folder so named must exist already.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output must be a folder, {folder} is a file")
    if folder.suffix.lower() in file_suffixes and not folder.is_dir():
        raise ValueError(f"--output must be a folder, {folder} is named like a file")
