"""Optical flow of a clip, as a video beside its frames."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from flowmatch.app.tasks.result import Shown, TaskResult, size_of
from flowmatch.flow import FlowOptions, SequenceOptions, write_sequence
from flowmatch.flow.sequence_drawing import check_video, draw_sequence
from flowmatch.io import read_frames, replace_when_done
from flowmatch.io._files import natural_order
from flowmatch.progress import ProgressCallback, counted, rate_of


def flow_of_clip(
    clip: Sequence[Path],
    *,
    folder: Path,
    device: str | None = None,
    model: str = "default",
    quality: str = "fast",
    longest_side: int | None = 640,
    start: int = 0,
    count: int = 60,
    stride: int = 1,
    confidence: bool = False,
    format: str = "flo",
    max_flow: float | None = None,
    progress: ProgressCallback | None = None,
) -> TaskResult:
    """Estimate the flow from each frame of a clip to the next.

    Args:
        clip: A video or a file of several pages; or two or more pictures, sorted by name.
        folder: Folder to write to.
        device: Device of the network; None takes a GPU if there is one.
        model: Name of flow weights.
        quality: ``"fast"``, ``"good"`` or ``"best"``.
        longest_side: Longer side to which larger frames are reduced, pixels; None or 0 reduces
            none.
        start: First frame, counted from 0.
        count: Number of frames at most, after `stride`.
        stride: Step between frames.
        confidence: Whether doubtful flow is gray in the video.
        format: Format of the flows: ``"flo"``, ``"png"``, ``"npz"`` or ``"pfm"``.
        max_flow: Motion of full colour, pixels; None or 0 takes one value fit to the clip.
        progress: Called after each pair.

    Returns:
        The video, and an archive of all flows.

    Raises:
        ValueError: The clip cannot be read, has no two frames of one size, or an option is out of
            range.
    """
    stop = start + max(2, count) * stride
    source = (
        clip[0] if len(clip) == 1 else sorted(clip, key=lambda path: natural_order(Path(path.name)))
    )
    frame = next(iter(read_frames(source, start=start, stop=start + 1)))
    scale = min(1.0, longest_side / max(frame.shape[:2])) if longest_side else 1.0
    frames = read_frames(source, start=start, stop=stop, stride=stride, scale=scale)
    flows, video = folder / "flows", folder / "flow.mp4"
    check_video(frames, video)
    options = SequenceOptions(
        FlowOptions(quality=quality), suffix=f".{format}", confidence=confidence
    )
    report = write_sequence(
        frames, flows, model=model, device=device, options=options, progress=progress
    )
    full = draw_sequence(
        frames, flows, options.suffix,
        video=video, max_flow=max_flow or None, confidence=confidence, progress=progress,
    )  # fmt: skip
    archive = folder / "flows.zip"
    _pack(archive, sorted(flows.glob(f"[0-9]*{options.suffix}")))
    shape = size_of(next(iter(frames)))
    notes = [f"left out: {skipped}" for skipped in report.skipped[:10]]
    return TaskResult(
        summary=f"{counted(report.computed, 'pair')} of frames of {shape}.",
        facts=(
            ("Pairs of frames", str(report.computed)),
            ("Size of the frames", shape),
            ("Full colour", f"{full:.3g} px per pair"),
            ("Speed", rate_of(report.computed, max(report.seconds, 1e-9))),
        ),
        shown=(Shown(video, "Frames beside their flow: hue is direction, saturation is length"),),
        files=(video, archive),
        notes=tuple(notes),
    )


def _pack(archive: Path, files: Sequence[Path]) -> None:
    with replace_when_done(archive) as temporary, zipfile.ZipFile(temporary, "w") as packed:
        for file in files:
            packed.write(file, file.name, zipfile.ZIP_DEFLATED, 1)
