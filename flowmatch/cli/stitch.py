"""``flowmatch stitch``: panoramas from overlapping photos."""

import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from flowmatch.cli._messages import StageBars, messages, progress_bar
from flowmatch.cli._options import (
    KEYPOINTS,
    MODEL,
    OUTPUT,
    DetectorName,
    DetectorWeights,
    DeviceName,
    Masks,
    MatcherName,
    MatcherWeights,
    WhiteLevel,
    check_target,
)
from flowmatch.io import IMAGE_SUFFIXES, read_frames, write_image
from flowmatch.io.image import check_picture_size
from flowmatch.io.masked import find_masks
from flowmatch.progress import counted
from flowmatch.stitch.cameras import Cameras, read_cameras
from flowmatch.stitch.options import CHOICES, StitchOptions
from flowmatch.stitch.photos import Photo, expand_folders, is_video, open_photos
from flowmatch.stitch.pipeline import Panorama, find_cameras, render_panorama, render_panoramas
from flowmatch.stitch.report import StitchReport
from flowmatch.stitch.video import choose_frames

EXAMPLES = (
    "flowmatch stitch photos -o panorama.jpg --megapixels 1",
    "flowmatch stitch left.png middle.png right.png -o scan.png --motion affine --verbose-dir look",
)
CAMERAS, RENDERING = "Cameras", "Rendering"
_DEFAULT = StitchOptions()


def command(
    context: typer.Context,
    photos: Annotated[
        list[Path],
        typer.Argument(
            metavar="PHOTO",
            help="Photos in any order, folders of photos, or videos.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="Panorama to write; further ones are called pano_2.jpg, pano_3.jpg, and so on.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ],
    save_cameras: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON file for the cameras, for --cameras.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    verbose_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for report.json and pictures of keypoints, matches, their graph, warped "
            "photos and seams; it is created if it does not exist.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    white: WhiteLevel = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Descriptor: rootsift, sift, orb, a name that flowmatch weights list prints, or a "
            "file: .safetensors or published weights.",
            show_default="rootsift, where one is needed",
            rich_help_panel=MODEL,
        ),
    ] = None,
    device: DeviceName = None,
    detector: DetectorName = "sift",
    detector_weights: DetectorWeights = None,
    keypoints: Annotated[
        int,
        typer.Option(help="Maximum number of keypoints per photo.", rich_help_panel=KEYPOINTS),
    ] = _DEFAULT.keypoints,
    keypoint_megapixels: Annotated[
        float,
        typer.Option(
            help="Size of a photo in which keypoints are detected.", rich_help_panel=KEYPOINTS
        ),
    ] = _DEFAULT.keypoint_megapixels,
    matcher: MatcherName = "nearest",
    matcher_weights: MatcherWeights = None,
    frame_overlap: Annotated[
        float,
        typer.Option(
            help="Share of a frame of a video that the next chosen frame still sees.",
            rich_help_panel=KEYPOINTS,
        ),
    ] = 0.6,
    masks: Masks = None,
    neighbours: Annotated[
        int | None,
        typer.Option(
            help="Match each photo with that many following ones, for photos given in the order in "
            "which they were taken; the last are matched with the first.",
            show_default="all photos that overlap",
            rich_help_panel=KEYPOINTS,
        ),
    ] = None,
    similar: Annotated[
        int | None,
        typer.Option(
            help="Number of most similar photos with which each is matched, for hundreds of photos "
            "in any order.",
            show_default="all photos that overlap",
            rich_help_panel=KEYPOINTS,
        ),
    ] = None,
    confidence: Annotated[
        float,
        typer.Option(
            "--min-confidence",
            help="Smallest confidence, inliers / (8 + 0.3 matches), of two photos that overlap.",
            rich_help_panel=KEYPOINTS,
        ),
    ] = _DEFAULT.confidence,
    motion: Annotated[
        str,
        typer.Option(
            help="Motion of the camera: rotation, or affine for scans, which are shifted, rotated "
            "and scaled without perspective.",
            rich_help_panel=CAMERAS,
        ),
    ] = _DEFAULT.motion,
    wave: Annotated[
        str,
        typer.Option(
            help=f"Straightening of the horizon: {', '.join(CHOICES['wave'])}.",
            rich_help_panel=CAMERAS,
        ),
    ] = _DEFAULT.wave,
    cameras: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of cameras from --save-cameras: nothing is matched.",
            show_default=False,
            rich_help_panel=CAMERAS,
        ),
    ] = None,
    megapixels: Annotated[
        float | None,
        typer.Option(
            help="Size of each photo in the panorama.",
            show_default="the full size",
            rich_help_panel=RENDERING,
        ),
    ] = None,
    max_side: Annotated[
        int | None,
        typer.Option(
            help="Longer side of the panorama, pixels; photos are reduced until it fits.",
            show_default="as the photos are",
            rich_help_panel=RENDERING,
        ),
    ] = None,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Small panorama in a fraction of the time: keypoints are searched for in 0.2 "
            "megapixels of a photo, and 0.1 megapixels of it are shown.",
            rich_help_panel=RENDERING,
        ),
    ] = False,
    seam_megapixels: Annotated[
        float | None,
        typer.Option(
            help="Size of a photo in which seams are searched for.",
            show_default="0.1",
            rich_help_panel=RENDERING,
        ),
    ] = None,
    projection: Annotated[
        str,
        typer.Option(
            help=f"Surface of the panorama: {', '.join(CHOICES['projection'])}.",
            rich_help_panel=RENDERING,
        ),
    ] = _DEFAULT.projection,
    turn: Annotated[
        tuple[float, float, float],
        typer.Option(
            metavar="YAW PITCH ROLL",
            help="Turn the view by degrees to the right, upwards and clockwise; saved cameras are "
            "not turned.",
            rich_help_panel=RENDERING,
        ),
    ] = _DEFAULT.turn,
    exposure: Annotated[
        str,
        typer.Option(
            help=f"Exposure compensation: {', '.join(CHOICES['exposure'])}.",
            rich_help_panel=RENDERING,
        ),
    ] = _DEFAULT.exposure,
    seams: Annotated[
        str,
        typer.Option(
            help=f"Search for seams: {', '.join(CHOICES['seams'])}.", rich_help_panel=RENDERING
        ),
    ] = _DEFAULT.seams,
    blend: Annotated[
        str,
        typer.Option(
            help=f"Blending at seams: {', '.join(CHOICES['blend'])}.", rich_help_panel=RENDERING
        ),
    ] = _DEFAULT.blend,
    blend_width: Annotated[
        float,
        typer.Option(help="Width of the blended band, percent.", rich_help_panel=RENDERING),
    ] = _DEFAULT.blend_width,
    crop: Annotated[
        bool,
        typer.Option(
            help="Crop to the largest rectangle without holes.", rich_help_panel=RENDERING
        ),
    ] = _DEFAULT.crop,
) -> None:
    """Stitch overlapping photos to panoramas.

    A photo that overlaps with no other is left out, and the reason is printed. Photos of several
    places make several panoramas.
    """
    check_target(output, IMAGE_SUFFIXES)
    check_target(save_cameras)
    if cameras is not None:
        changed = {
            "--motion": motion != _DEFAULT.motion, "--wave": wave != _DEFAULT.wave,
            "--model": model is not None, "--detector": detector != _DEFAULT.detector,
            "--detector-weights": detector_weights is not None,
            "--matcher": matcher != _DEFAULT.matcher,
            "--matcher-weights": matcher_weights is not None,
            "--keypoints": keypoints != _DEFAULT.keypoints,
            "--neighbours": neighbours is not None, "--similar": similar is not None,
            "--min-confidence": confidence != _DEFAULT.confidence,
            "--keypoint-megapixels": keypoint_megapixels != _DEFAULT.keypoint_megapixels,
        }  # fmt: skip
        if unused := [name for name, is_changed in changed.items() if is_changed]:
            raise ValueError(f"--cameras matches nothing: it takes no {', '.join(unused)}")
    options = StitchOptions(
        detector=detector, detector_weights=detector_weights, matcher=matcher,
        matcher_weights=matcher_weights,
        keypoints=keypoints, neighbours=neighbours, similar=similar, confidence=confidence,
        motion=motion,
        wave=wave, keypoint_megapixels=keypoint_megapixels, projection=projection, turn=turn,
        exposure=exposure, seams=seams, blend=blend, blend_width=blend_width, crop=crop,
        megapixels=megapixels, max_side=max_side,
        seam_megapixels=seam_megapixels,
    )  # fmt: skip
    if preview:
        options = options.preview()
    if any(map(is_video, photos)):
        clips = Path(context.with_resource(TemporaryDirectory(prefix="flowmatch-")))
        photos = _frames_of_videos(photos, clips, frame_overlap)
    files = expand_folders(photos, without=_earlier_outputs(output))
    opened = open_photos(files, find_masks(files, masks) if masks else None)
    targets = _targets(output, save_cameras, {file.resolve() for file in files})
    report = StitchReport(verbose_dir) if verbose_dir else None
    with progress_bar(transient=True) as bar:
        progress = StageBars(bar)
        rendering: dict[str, Any] = {
            "options": options,
            "progress": progress,
            "on_warped": report.write_warped if report else None,
            "on_size": partial(check_picture_size, output),
        }
        panoramas: Iterator[Panorama]
        if cameras is not None:
            rig = read_cameras(cameras)
            panoramas, camera_sets = _render_later(opened, rig, rendering), [rig]
        else:
            groups = find_cameras(
                opened, model=model, device=device, options=options, progress=progress
            )
            if report:
                report.write_groups(groups, confidence)
            panoramas = render_panoramas(groups, **rendering)
            camera_sets = [group.cameras for group in groups.groups]
            _print_left_out(groups.left_out)
        # Cameras are written first: they remain if the picture cannot be rendered or written.
        for its_cameras, (target, camera_file) in zip(camera_sets, targets, strict=False):
            if camera_file is not None:
                its_cameras.write(camera_file)
            panorama = next(panoramas)
            if report:
                report.write_panorama(panorama)
            _save(panorama, target)


def _frames_of_videos(paths: Sequence[Path], folder: Path, overlap: float) -> list[Path]:
    """Return paths with each video replaced by its chosen frames, which are written to a folder."""
    photos: list[Path] = []
    for path in paths:
        if not is_video(path) or path.is_dir():
            photos.append(path)
            continue
        chosen = []
        for number, image in choose_frames(read_frames(path).numbered(), overlap):
            chosen.append(folder / f"{path.stem}_{number:06d}.png")
            write_image(chosen[-1], image)
        messages.print(f"{counted(len(chosen), 'frame')} of {path}")
        photos += chosen
    return photos


def _render_later(
    photos: Sequence[Photo], cameras: Cameras, rendering: dict[str, Any]
) -> Iterator[Panorama]:
    panorama = render_panorama(photos, cameras, **rendering)
    _print_left_out(panorama.left_out)
    yield panorama


def _print_left_out(photos: Any) -> None:
    for photo in photos:
        messages.print(f"left out: {photo.name}: {photo.reason}")


def _earlier_outputs(output: Path) -> set[Path]:
    """Return the panoramas that the same command wrote earlier; they may lie among the photos.

    Photos may have numbered names, too, but they are older than the first panorama.
    """
    if not output.is_file():
        return set()
    numbered = re.compile(rf"{re.escape(output.stem)}_\d+{re.escape(output.suffix)}")
    since = output.stat().st_mtime_ns
    others = [f for f in output.parent.iterdir() if numbered.fullmatch(f.name) and f.is_file()]
    return {output.resolve(), *(o.resolve() for o in others if o.stat().st_mtime_ns >= since)}


def _targets(
    output: Path, save_cameras: Path | None, photos: Collection[Path]
) -> Iterator[tuple[Path, Path | None]]:
    """Return the files of each panorama and its cameras; numbered names of photos are skipped.

    Raises:
        ValueError: The first file is one of the photos.
    """
    for path in (output, save_cameras):
        if path is not None and path.resolve() in photos:
            raise ValueError(f"{path} cannot be written: it is one of the photos")
    pairs = (
        (_numbered(output, number), save_cameras and _numbered(save_cameras, number))
        for number in count(1)
    )
    return (pair for pair in pairs if not any(p and p.resolve() in photos for p in pair))


def _save(panorama: Panorama, target: Path) -> None:
    write_image(target, panorama.image, metadata=panorama.metadata)
    for message in panorama.messages:
        messages.print(f"note: {message}")
    H, W = panorama.image.shape[:2]
    messages.print(
        f"{len(panorama.cameras.cameras)} photos ({', '.join(panorama.cameras.names)}), "
        f"{W} x {H} pixels, in {target}"
    )


def _numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}_{number}{path.suffix}")
