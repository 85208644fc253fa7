"""Files and lines that ``flowmatch register`` writes about its results."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import typer

from flowmatch.cli._messages import messages
from flowmatch.cli._options import STDOUT
from flowmatch.cli._scans import Scans, is_depth_picture
from flowmatch.cli._tables import write_json
from flowmatch.io import move_cloud_file, write_image
from flowmatch.registration.draw import draw_merged, draw_registration
from flowmatch.registration.export import summarize_multiway, summarize_registration, write_merged
from flowmatch.registration.graph import MultiwayRegistration
from flowmatch.registration.recording import record_merged, record_registration
from flowmatch.registration.register import Registration


class Outputs(NamedTuple):
    """Files to write.

    Attributes:
        cloud: Cloud of the moved scans.
        json: JSON file; - is stdout.
        picture: Picture of the scans before and after.
        recording: Recording for the rerun viewer.
        merge: Whether the cloud of two scans holds both.
    """

    cloud: Path | None
    json: Path | None
    picture: Path | None
    recording: Path | None
    merge: bool


def report_two(paths: list[Path], clouds: Scans, result: Registration, outputs: Outputs) -> None:
    """Write and print the registration of two scans."""
    if outputs.cloud is not None:
        first, second = (_source(path, cloud) for path, cloud in zip(paths, clouds, strict=True))
        if outputs.merge:
            motions = [result.motion, np.eye(4)]
            lost = write_merged(outputs.cloud, [first, second], motions, frame=paths[1])
        else:
            lost = move_cloud_file(first, outputs.cloud, result.motion, frame=paths[1])
        _print_lost(outputs.cloud, lost)
    if outputs.json is not None:
        names = {"source": str(paths[0]), "target": str(paths[1])}
        write_json(outputs.json, names | summarize_registration(result))
    if outputs.picture is not None:
        write_image(outputs.picture, draw_registration(clouds[0], clouds[1], result))
    if outputs.recording is not None:
        record_registration(outputs.recording, clouds[0], clouds[1], result)
    if outputs.json != STDOUT:
        # With six digits, a rotation shifts points 5000 km from the origin, as in UTM, by metres.
        digits = 6 if max(np.abs(cloud).max() for cloud in clouds) < 1000 else 12
        rows = result.motion.tolist()
        typer.echo("\n".join(" ".join(f"{x: .{digits}f}" for x in row) for row in rows))
    verdict = "accepted" if result.trusted else "rejected"
    messages.print(f"registration {verdict}: {result.reason}")


def report_many(
    paths: list[Path], clouds: Scans, merged: MultiwayRegistration, outputs: Outputs
) -> None:
    """Write and print the registration of several scans."""
    placed = np.flatnonzero(merged.placed).tolist()
    moved = [clouds[k] for k in placed]
    if outputs.cloud is not None:
        sources = [_source(paths[k], clouds[k]) for k in placed]
        anchor = paths[merged.anchor]
        motions = merged.motions[placed]
        lost = write_merged(outputs.cloud, sources, motions, numbers=placed, frame=anchor)
        _print_lost(outputs.cloud, lost)
    if outputs.json is not None:
        write_json(outputs.json, summarize_multiway(merged, [str(path) for path in paths]))
    if outputs.picture is not None:
        write_image(outputs.picture, draw_merged(moved, merged.motions[placed]))
    if outputs.recording is not None:
        names = [f"{k} {paths[k].name}" for k in placed]
        record_merged(outputs.recording, moved, list(merged.motions[placed]), names)
    for edge in merged.edges:
        state = "used" if edge.used else "not used"
        name = f"{paths[edge.source].name} on {paths[edge.target].name}"
        messages.print(f"{name}: {state}, {edge.registration.reason}")
    verdict = "accepted" if merged.trusted else "incomplete"
    line = f"{len(placed)} of {len(paths)} scans moved onto {paths[merged.anchor].name}"
    missing = [str(path) for path, ok in zip(paths, merged.placed, strict=True) if not ok]
    if missing:
        line += f"; not registered: {', '.join(missing)}"
    messages.print(f"registration {verdict}: {line}")


def _source(path: Path, cloud: np.ndarray) -> Path | np.ndarray:
    """Return what is moved: the file with all its properties, or the points of a depth picture."""
    return cloud if is_depth_picture(path) else path


def _print_lost(path: Path, lost: list[str]) -> None:
    if lost:
        messages.print(f"{path}: without {', '.join(lost)}")
