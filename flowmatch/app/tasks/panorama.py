"""A panorama of photos."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flowmatch.app.tasks.result import Shown, TaskResult, show, size_of
from flowmatch.io.image import check_picture_size
from flowmatch.progress import ProgressCallback, counted
from flowmatch.stitch import StitchOptions
from flowmatch.stitch.pipeline import find_cameras, render_panoramas


def panorama_of_photos(
    photos: Sequence[Path],
    *,
    folder: Path,
    device: str | None = None,
    motion: str = StitchOptions.motion,
    projection: str = StitchOptions.projection,
    megapixels: float | None = 1.0,
    exposure: str = StitchOptions.exposure,
    seams: str = StitchOptions.seams,
    blend: str = StitchOptions.blend,
    wave: str = StitchOptions.wave,
    crop: bool = StitchOptions.crop,
    confidence: float = StitchOptions.confidence,
    format: str = "jpg",
    progress: ProgressCallback | None = None,
) -> TaskResult:
    """Stitch photos, in any order, to panoramas.

    Args:
        photos: Two or more files.
        folder: Folder to write to.
        device: Device of a network; None takes a GPU if there is one.
        motion: ``"rotation"`` of the camera, or ``"affine"`` for scans.
        projection: Surface of the panorama.
        megapixels: Size of each photo in the panorama; None or 0 keeps the full size.
        exposure: Compensation of brightness.
        seams: Method that finds the seams.
        blend: Blending at seams.
        wave: Straightening of the horizon.
        crop: Whether to crop to the largest rectangle without holes.
        confidence: Smallest confidence of two photos that overlap.
        format: Format of the panorama: ``"jpg"``, ``"png"`` or ``"tif"``.
        progress: Called after each photo or pair of photos of each stage.

    Returns:
        The panoramas, the largest group of photos first, and their cameras.

    Raises:
        ValueError: No two photos overlap (the message gives the reason for each photo), or an
            option is out of range.
    """
    options = StitchOptions(
        motion=motion, projection=projection, megapixels=megapixels or None, exposure=exposure,
        seams=seams, blend=blend, wave=wave, crop=crop, confidence=confidence,
    )  # fmt: skip
    groups = find_cameras(photos, device=device, options=options, progress=progress)
    on_size = partial(check_picture_size, folder / f"panorama.{format}")
    shown: list[Shown] = []
    files: list[Path] = []
    facts: list[tuple[str, str]] = []
    notes = [f"left out: {photo.name}: {photo.reason}" for photo in groups.left_out]
    for number, panorama in enumerate(
        render_panoramas(groups, options=options, progress=progress, on_size=on_size), 1
    ):
        end = "" if number == 1 else f"_{number}"
        picture, cameras = folder / f"panorama{end}.{format}", folder / f"cameras{end}.json"
        panorama.cameras.write(cameras)
        files += [picture, cameras]
        title = f"{counted(len(panorama.cameras.cameras), 'photo')}, {size_of(panorama.image)}"
        facts.append((f"Panorama {number}" if end else "Panorama", title))
        shown.append(show(picture, panorama.image, title))
        notes += panorama.messages
    used = len(groups.photos) - len(groups.left_out)
    return TaskResult(
        summary=f"{counted(len(shown), 'panorama')} of {used} of the {len(groups.photos)} photos.",
        facts=tuple(facts),
        shown=tuple(shown),
        files=tuple(files),
        notes=tuple(notes),
    )
