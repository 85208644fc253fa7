"""``flowmatch stitch``: photos that overlap become panoramas."""

import re
from collections.abc import Collection, Iterator
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import TaskID

from flowmatch.cli._messages import (
    messages,
    progress_bar,
)
from flowmatch.cli._options import (
    DeviceName,
    check_target,
)
from flowmatch.io import IMAGE_SUFFIXES, write_image
from flowmatch.stitch.cameras import CAMERA_MODELS, read_cameras
from flowmatch.stitch.options import CHOICES, WAVES, StitchOptions
from flowmatch.stitch.photos import expand_folders
from flowmatch.stitch.pipeline import Panorama, find_cameras, render_panorama, render_panoramas
from flowmatch.stitch.report import StitchReport


def command(
    photos: Annotated[
        list[Path],
        typer.Argument(help="Photos in any order, or folders of them.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="The panorama. Of several, the others are called pano_2.jpg, pano_3.jpg, ...",
            show_default=False,
        ),
    ],
    affine: Annotated[
        bool,
        typer.Option("--affine", help="Scans: shifted, turned and scaled, no perspective."),
    ] = False,
    megapix: Annotated[
        float | None,
        typer.Option(help="Of each photo in the panorama; else all there are.", show_default=False),
    ] = None,
    medium_megapix: Annotated[float, typer.Option(help="Of a photo for finding keypoints.")] = 0.6,
    low_megapix: Annotated[
        float | None,
        typer.Option(help="Of a photo for finding seams; else 0.3 or less.", show_default=False),
    ] = None,
    descriptor: Annotated[
        str,
        typer.Option(
            help="rootsift, sift, orb; weights that ship, by name; or a file: .safetensors of your "
            "own, or published weights."
        ),
    ] = "rootsift",
    detector: Annotated[str, typer.Option(help="sift or orb.")] = "sift",
    keypoints: Annotated[int, typer.Option(help="At most, in each photo.")] = 4000,
    confidence: Annotated[
        float, typer.Option(help="A pair overlaps if inliers / (8 + 0.3 matches) is that much.")
    ] = 1.0,
    wave: Annotated[str, typer.Option(help=f"Straightens: {', '.join(WAVES)}.")] = "auto",
    warper: Annotated[str, typer.Option(help=f"{', '.join(CHOICES['projection'])}.")] = "auto",
    exposure: Annotated[str, typer.Option(help=f"{', '.join(CHOICES['exposure'])}.")] = "blocks",
    seams: Annotated[str, typer.Option(help=f"{', '.join(CHOICES['seams'])}.")] = "graphcut",
    blend: Annotated[str, typer.Option(help=f"{', '.join(CHOICES['blend'])}.")] = "multiband",
    strength: Annotated[float, typer.Option(help="Width of the blended band, percent.")] = 5.0,
    crop: Annotated[bool, typer.Option(help="Cut out the largest full rectangle.")] = True,
    cameras: Annotated[
        Path | None,
        typer.Option(help="Use cameras saved before: nothing is matched.", show_default=False),
    ] = None,
    save_cameras: Annotated[
        Path | None,
        typer.Option(help="Write the cameras, JSON, for --cameras.", show_default=False),
    ] = None,
    verbose_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for pictures of keypoints, matches, their graph, warped photos and seams, "
            "and report.json.",
            show_default=False,
        ),
    ] = None,
    device: DeviceName = None,
) -> None:
    """Stitch photos to panoramas.

    Photos that overlap with no other are left out, and it is said why. Photos of several places
    make several panoramas.
    """
    check_target(output, IMAGE_SUFFIXES)
    check_target(save_cameras)
    if cameras is not None:
        changed = {
            "--affine": affine, "--wave": wave != "auto", "--descriptor": descriptor != "rootsift",
            "--detector": detector != "sift", "--keypoints": keypoints != 4000,
            "--confidence": confidence != 1.0, "--medium-megapix": medium_megapix != 0.6,
        }  # fmt: skip
        if unused := [name for name, given in changed.items() if given]:
            raise ValueError(f"--cameras matches nothing: it takes no {', '.join(unused)}")
    options = StitchOptions(
        detector=detector, keypoints=keypoints, confidence=confidence,
        motion=CAMERA_MODELS[1] if affine else CAMERA_MODELS[0], wave=wave,
        keypoint_megapixels=medium_megapix, projection=warper, exposure=exposure, seams=seams,
        blend=blend, blend_width=strength, crop=crop, megapixels=megapix,
        seam_megapixels=low_megapix,
    )  # fmt: skip
    files = expand_folders(photos, without=_written_before(output))
    targets = _targets(output, save_cameras, {file.resolve() for file in files})
    report = StitchReport(verbose_dir) if verbose_dir else None
    with progress_bar(transient=True) as bar:
        progress = _Bar(bar)
        rendering: dict[str, Any] = {
            "options": options,
            "progress": progress,
            "on_warped": report.write_warped if report else None,
        }
        panoramas: Iterator[Panorama]
        if cameras is not None:
            panorama = render_panorama(files, read_cameras(cameras), **rendering)
            _tell_left_out(panorama.left_out)
            panoramas = iter([panorama])
        else:
            groups = find_cameras(
                files, model=descriptor, device=device, options=options, progress=progress
            )
            if report:
                report.write_groups(groups, confidence)
            panoramas = render_panoramas(groups, **rendering)
            _tell_left_out(groups.left_out)
        for panorama in panoramas:
            if report:
                report.write_panorama(panorama)
            _save(panorama, *next(targets))


class _Bar:
    """One line of progress for each stage."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage)
        self._bar.update(self._tasks[stage], completed=done, total=total)


def _tell_left_out(photos: Any) -> None:
    for photo in photos:
        messages.print(f"left out: {photo.name}: {photo.reason}")


def _written_before(output: Path) -> set[Path]:
    """Return the panoramas that the same command wrote before; they may lie among the photos.

    Photos may be numbered alike, but they are older than the first panorama.
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
    """Return where each panorama and its cameras go, with numbers that name no photo.

    Raises:
        ValueError: The first would overwrite a photo.
    """
    for path in (output, save_cameras):
        if path is not None and path.resolve() in photos:
            raise ValueError(f"{path} cannot be written: it is one of the photos")
    pairs = (
        (_numbered(output, number), save_cameras and _numbered(save_cameras, number))
        for number in count(1)
    )
    return (pair for pair in pairs if not any(p and p.resolve() in photos for p in pair))


def _save(panorama: Panorama, target: Path, cameras: Path | None) -> None:
    write_image(target, panorama.image)
    for message in panorama.messages:
        messages.print(f"note: {message}")
    if cameras is not None:
        panorama.cameras.write(cameras)
    H, W = panorama.image.shape[:2]
    messages.print(
        f"{len(panorama.cameras.cameras)} photos ({', '.join(panorama.cameras.names)}), "
        f"{W} x {H} pixels, in {target}"
    )


def _numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}_{number}{path.suffix}")
