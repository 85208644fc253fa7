"""A folder of pictures and numbers that shows every stage of a panorama."""

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.draw import draw_matches
from flowmatch.imaging import Image
from flowmatch.io import replace_when_done, write_image
from flowmatch.stitch.compose import WarpedPhoto
from flowmatch.stitch.matching import Pair, View
from flowmatch.stitch.photos import Photo
from flowmatch.stitch.pipeline import Panorama, PhotoGroups
from flowmatch.stitch.project import Box

_MAX_PICTURES = 200  # of matches; there are half a million pairs of a thousand photos
_CONFIDENT, _OTHER, _INK = (30, 150, 60), (200, 200, 200), (40, 40, 40)
_SEAM = (255, 0, 160)


class StitchReport:
    """Writes the results of all stages into a folder.

    Files: ``report.json``; ``graph.dot`` and ``graph.png``, the graph of matches; pictures in the
    folders ``keypoints``, ``matches``, ``warped`` and ``seams``; and ``panorama_N_seams.jpg``, the
    N-th panorama with its seams.

    Args:
        folder: Folder, created if it does not exist.

    Example:
        >>> import tempfile
        >>> from flowmatch.stitch import StitchOptions, find_cameras, render_panoramas
        >>> texture = np.random.default_rng(0).integers(0, 255, (30, 60, 3), np.uint8)
        >>> wide = texture.repeat(8, axis=0).repeat(8, axis=1)
        >>> report = StitchReport(tempfile.mkdtemp())
        >>> options = StitchOptions(motion="affine")
        >>> groups = find_cameras([wide[:, :300], wide[:, 180:]], options=options)
        >>> report.write_groups(groups, options.confidence)
        >>> for panorama in render_panoramas(groups, on_warped=report.write_warped):
        ...     report.write_panorama(panorama)
        >>> (report.folder / "panorama_1_seams.jpg").exists()
        True
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._contents: dict[str, Any] = {"panoramas": []}
        self._names: set[str] = set()
        self._edges: list[tuple[Box, NDArray[np.intp], NDArray[np.intp]]] = []
        for name in ("keypoints", "matches", "warped", "seams"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def write_groups(self, groups: PhotoGroups, confidence: float) -> None:
        """Write keypoints, matches and their graph.

        Args:
            groups: Result of `find_cameras`.
            confidence: Smallest confidence of a pair that overlaps.
        """
        views = groups.views
        for view in views:
            self._write_keypoints(view)
        pairs = [pair for pair in groups.pairs if len(pair.matches.matches)]
        pairs.sort(key=lambda pair: (-pair.confidence, -pair.inliers, pair.first, pair.second))
        for pair in pairs[:_MAX_PICTURES]:
            self._write_matches(views[pair.first], views[pair.second], pair)
        self._write_text("graph.dot", graph_as_dot(views, groups.pairs, confidence))
        write_image(self.folder / "graph.png", draw_graph(views, groups.pairs, confidence))
        self._contents = {
            "confidence_needed": confidence,
            "photos": [
                {
                    "name": view.name,
                    "width": view.full_size[0],
                    "height": view.full_size[1],
                    "keypoints": len(view.features.keypoints.xy),
                }
                for view in sorted(views, key=lambda view: view.photo.number)
            ],
            "pairs": [
                {
                    "first": views[pair.first].name,
                    "second": views[pair.second].name,
                    "matches": len(pair.matches.matches),
                    "inliers": pair.inliers,
                    "confidence": round(pair.confidence, 3),
                    "rejected_because": pair.reason,
                }
                for pair in pairs
            ],
            "left_out": [photo._asdict() for photo in groups.left_out],
            "panoramas": [],
        }
        self._write_contents()

    def write_warped(self, warped: WarpedPhoto) -> None:
        """Write a warped photo and its part of the panorama: `on_warped` of `render_panorama`."""
        _, image, mask, seam, box = warped
        number = len(self._contents["panoramas"]) + 1
        name = f"panorama_{number}_{file_name(warped.photo)}.jpg"
        if name in self._names:  # the part at the other edge of the panorama
            name = f"panorama_{number}_{file_name(warped.photo)}_2.jpg"
        self._names.add(name)
        write_image(self.folder / "warped" / name, np.where(mask[..., None] > 0, image, 0))
        darkened = np.where(seam[..., None] > 0, image, image // 4)
        write_image(self.folder / "seams" / name, np.where(mask[..., None] > 0, darkened, 0))
        # The outline of the seam mask without the outline of the photo.
        square = np.ones((3, 3), np.uint8)
        inside = cv2.erode(mask, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        edge = (seam > 0) & (cv2.erode(seam, square) == 0) & (np.asarray(inside) > 0)
        y, x = np.nonzero(edge)
        self._edges.append((box, y, x))

    def write_panorama(self, panorama: Panorama) -> None:
        """Write a panorama with the seams of its photos, which `write_warped` has received."""
        page = panorama.uncropped.copy()
        left = min(box.left for box, _, _ in self._edges)
        top = min(box.top for box, _, _ in self._edges)
        for box, y, x in self._edges:
            page[y + (box.top - top), x + (box.left - left)] = _SEAM
        self._edges = []
        thickness = max(1, max(page.shape) // 2000)
        if thickness > 1:  # a seam of one pixel would vanish when the picture is shown reduced
            line = np.all(page == _SEAM, axis=2).astype(np.uint8)
            page[cv2.dilate(line, np.ones((thickness, thickness), np.uint8)) > 0] = _SEAM
        cameras = panorama.cameras
        self._contents["panoramas"].append(
            {
                "photos": cameras.names,
                "motion": cameras.motion,
                "error_in_pixels": round(cameras.error, 3),
                "focal": [round(camera.focal, 2) for camera in cameras.cameras],
                "messages": list(panorama.messages),
                "size_before_cropping": [page.shape[1], page.shape[0]],
                "size": [panorama.image.shape[1], panorama.image.shape[0]],
            }
        )
        number = len(self._contents["panoramas"])
        write_image(self.folder / f"panorama_{number}_seams.jpg", page)
        self._write_contents()

    def _write_contents(self) -> None:
        self._write_text("report.json", json.dumps(self._contents, indent=1) + "\n")

    def _write_text(self, name: str, text: str) -> None:
        with replace_when_done(self.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _write_keypoints(self, view: View) -> None:
        page = view.photo.read(view.size).copy()
        points = view.features.keypoints
        for (x, y), scale in zip(points.xy.tolist(), points.scale.tolist(), strict=True):
            cv2.circle(page, (round(x), round(y)), max(1, round(scale)), _SEAM, 1, cv2.LINE_AA)
        write_image(self.folder / "keypoints" / f"{file_name(view.photo)}.jpg", page)

    def _write_matches(self, a: View, b: View, pair: Pair) -> None:
        first, second = a.photo.read(a.size), b.photo.read(b.size)
        page = draw_matches(first, second, *pair.matches.points(), pair.matches.inliers)
        name = f"{file_name(a.photo)}--{file_name(b.photo)}.jpg"
        write_image(self.folder / "matches" / name, page)


def safe_name(name: str) -> str:
    """Return a name without its suffix, in letters that any file name may have.

    Example:
        >>> safe_name("holiday/1 (2).jpg")
        'holiday_1_2'
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "_", Path(name).with_suffix("").as_posix()).strip("._")


def file_name(photo: Photo) -> str:
    """Return the name of a photo's pictures; the number makes it unique."""
    return f"{photo.number + 1:03d}_{safe_name(photo.name)}"


def graph_as_dot(views: Sequence[View], pairs: Sequence[Pair], confidence: float) -> str:
    """Return the graph of matches for Graphviz: confident pairs solid, others dashed."""
    lines = ["graph matches {", "  node [shape=box];"]
    lines += [f"  {json.dumps(view.name, ensure_ascii=False)};" for view in views]
    for pair in pairs:
        if pair.inliers == 0:
            continue
        a, b = (json.dumps(views[k].name, ensure_ascii=False) for k in (pair.first, pair.second))
        label = f"{pair.inliers} of {len(pair.matches.matches)}, {pair.confidence:.2f}"
        style = "solid" if pair.confidence >= confidence else "dashed"
        lines.append(f'  {a} -- {b} [label="{label}", style={style}];')
    return "\n".join([*lines, "}", ""])


def draw_graph(views: Sequence[View], pairs: Sequence[Pair], confidence: float) -> Image:
    """Draw photos on a circle; confident pairs as green lines with numbers, others in gray."""
    side = min(3000, max(480, 90 * len(views)))
    page = np.full((side, side + 240, 3), 255, np.uint8)
    middle, radius = (side + 240) / 2, side * 0.4
    spots = []
    for k in range(len(views)):
        angle = 2 * math.pi * k / max(1, len(views))
        x, y = middle + radius * math.sin(angle), side / 2 - radius * math.cos(angle)
        spots.append((round(x), round(y)))
    for pair in sorted(pairs, key=lambda pair: pair.confidence):
        if pair.inliers == 0:
            continue
        is_confident = pair.confidence >= confidence
        a, b = spots[pair.first], spots[pair.second]
        colour, width = (_CONFIDENT, 2) if is_confident else (_OTHER, 1)
        cv2.line(page, a, b, colour, width, cv2.LINE_AA)
        if is_confident:
            centre = ((a[0] + b[0]) // 2, (a[1] + b[1]) // 2)
            _draw_text(page, f"{pair.confidence:.1f}", centre)
    for view, spot in zip(views, spots, strict=True):
        cv2.circle(page, spot, 5, _INK, -1, cv2.LINE_AA)
        _draw_text(page, view.name, (spot[0], spot[1] - 14))
    return page


def _draw_text(page: Image, text: str, centre: tuple[int, int]) -> None:
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    # OpenCV's font contains ASCII only.
    text = text.encode("ascii", "replace").decode()
    (width, height), _ = cv2.getTextSize(text, font, size, 1)
    x = int(np.clip(centre[0] - width // 2, 2, max(2, page.shape[1] - width - 2)))
    y = centre[1] + height // 2
    cv2.rectangle(page, (x - 2, y - height - 3), (x + width + 2, y + 4), (255, 255, 255), -1)
    cv2.putText(page, text, (x, y), font, size, _INK, 1, cv2.LINE_AA)
