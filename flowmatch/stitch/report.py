"""A folder in which every stage of a panorama can be looked at."""

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
from flowmatch.io import replace_when_done, write_image
from flowmatch.stitch.cameras import Cameras
from flowmatch.stitch.matching import LeftOut, Pair, View
from flowmatch.stitch.photos import Image, Photo
from flowmatch.stitch.project import Box

_MOST_PICTURES = 200  # of matches; a thousand pairs are not looked at
_SURE, _UNSURE, _INK = (30, 150, 60), (200, 200, 200), (40, 40, 40)
_SEAM = (255, 0, 160)


class Report:
    """Writes ``report.json``, ``graph.dot`` and the pictures of all stages into a folder.

    Folders: ``keypoints``, ``matches``, ``warped``, ``seams``; pictures ``graph.png`` and
    ``panorama_N_seams.jpg``, where seams are drawn over the whole panorama.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._numbers: dict[str, Any] = {}
        for name in ("keypoints", "matches", "warped", "seams"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def registration(
        self,
        photos: Sequence[Photo],
        views: Sequence[View],
        pairs: Sequence[Pair],
        left_out: Sequence[LeftOut],
        confidence: float,
    ) -> None:
        """Write what was found of photos and pairs."""
        for view in views:
            self._keypoints(photos[view.photo], view)
        told = [pair for pair in pairs if len(pair.matches.pairs)]
        told.sort(key=lambda pair: (-pair.confidence, -pair.inliers, pair.first, pair.second))
        for pair in told[:_MOST_PICTURES]:
            self._matches(photos, views[pair.first], views[pair.second], pair)
        self._write("graph.dot", graph_as_dot(views, pairs, confidence))
        write_image(self.folder / "graph.png", draw_graph(views, pairs, confidence))
        self._numbers = {
            "confidence_needed": confidence,
            "photos": [
                {
                    "name": view.name,
                    "width": view.full[0],
                    "height": view.full[1],
                    "keypoints": len(view.features.keypoints.xy),
                }
                for view in sorted(views, key=lambda view: view.photo)
            ],
            "pairs": [
                {
                    "first": views[pair.first].name,
                    "second": views[pair.second].name,
                    "matches": len(pair.matches.pairs),
                    "inliers": pair.inliers,
                    "confidence": round(pair.confidence, 3),
                    "rejected_because": pair.reason,
                }
                for pair in told
            ],
            "left_out": [photo._asdict() for photo in left_out],
            "panoramas": [],
        }
        self.write_numbers()

    def start(
        self, number: int, photos: Sequence[int], cameras: Cameras, messages: Sequence[str]
    ) -> "Stages":
        """Return who watches the panorama of that number, counted from 1, of photos from 0."""
        self._numbers.setdefault("panoramas", []).append(
            {
                "photos": cameras.names,
                "model": cameras.model,
                "error_in_pixels": round(cameras.error, 3),
                "focal": [round(camera.focal, 2) for camera in cameras.cameras],
                "messages": list(messages),
            }
        )
        return Stages(self, number, photos, self._numbers["panoramas"][-1])

    def write_numbers(self) -> None:
        """Write ``report.json`` as far as it is known."""
        self._write("report.json", json.dumps(self._numbers, indent=1) + "\n")

    def _write(self, name: str, text: str) -> None:
        with replace_when_done(self.folder / name) as beside:
            beside.write_text(text, encoding="utf-8")

    def _keypoints(self, photo: Photo, view: View) -> None:
        page = photo.read(view.size).copy()
        points = view.features.keypoints
        for (x, y), scale in zip(points.xy.tolist(), points.scale.tolist(), strict=True):
            cv2.circle(page, (round(x), round(y)), max(1, round(scale)), _SEAM, 1, cv2.LINE_AA)
        write_image(self.folder / "keypoints" / f"{file_name(view.photo, view.name)}.jpg", page)

    def _matches(self, photos: Sequence[Photo], a: View, b: View, pair: Pair) -> None:
        first, second = photos[a.photo].read(a.size), photos[b.photo].read(b.size)
        page = draw_matches(first, second, *pair.matches.points(), pair.matches.inlier)
        name = f"{file_name(a.photo, a.name)}--{file_name(b.photo, b.name)}.jpg"
        write_image(self.folder / "matches" / name, page)


class Stages:
    """Watches one panorama being put together.

    Args:
        report: Where to write.
        number: Of the panorama.
        photos: Their numbers, in the order in which they come.
        numbers: What ``report.json`` will say of it.
    """

    def __init__(
        self, report: Report, number: int, photos: Sequence[int], numbers: dict[str, Any]
    ) -> None:
        self._report, self._number, self._numbers = report, number, numbers
        self._photos = iter(photos)
        self._edges: list[tuple[Box, NDArray[np.intp], NDArray[np.intp]]] = []

    def warped(self, name: str, image: Image, mask: Image, seam: Image, box: Box) -> None:
        """See one photo as it is given to the blender."""
        base = f"panorama_{self._number}_{file_name(next(self._photos), name)}.jpg"
        write_image(self._report.folder / "warped" / base, np.where(mask[..., None] > 0, image, 0))
        kept = np.where(seam[..., None] > 0, image, image // 4)
        write_image(self._report.folder / "seams" / base, np.where(mask[..., None] > 0, kept, 0))
        # Seams only: not where the photo itself ends.
        near = np.ones((3, 3), np.uint8)
        inside = cv2.erode(mask, near, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        edge = (seam > 0) & (cv2.erode(seam, near) == 0) & (np.asarray(inside) > 0)
        y, x = np.nonzero(edge)
        self._edges.append((box, y, x))

    def result(self, whole: Image, finished: Image) -> None:
        """See the panorama before and after it was cropped."""
        page = whole.copy()
        left = min(box.left for box, _, _ in self._edges)
        top = min(box.top for box, _, _ in self._edges)
        for box, y, x in self._edges:
            page[y + (box.top - top), x + (box.left - left)] = _SEAM
        thick = max(1, max(page.shape) // 2000)
        if thick > 1:  # or a seam of one pixel is lost when the picture is shown smaller
            line = np.all(page == _SEAM, axis=2).astype(np.uint8)
            page[cv2.dilate(line, np.ones((thick, thick), np.uint8)) > 0] = _SEAM
        write_image(self._report.folder / f"panorama_{self._number}_seams.jpg", page)
        self._numbers["size_before_cropping"] = [whole.shape[1], whole.shape[0]]
        self._numbers["size"] = [finished.shape[1], finished.shape[0]]
        self._report.write_numbers()


def safe(name: str) -> str:
    """Return a name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", Path(name).with_suffix("").as_posix()).strip("._")


def file_name(photo: int, name: str) -> str:
    """Return the name of a photo's pictures; the number keeps them apart."""
    return f"{photo + 1:03d}_{safe(name)}"


def graph_as_dot(views: Sequence[View], pairs: Sequence[Pair], confidence: float) -> str:
    """Return the graph of matches for Graphviz: sure pairs solid, others dashed."""
    lines = ["graph matches {", "  node [shape=box];"]
    lines += [f"  {json.dumps(view.name, ensure_ascii=False)};" for view in views]
    for pair in pairs:
        if pair.inliers == 0:
            continue
        a, b = (json.dumps(views[k].name, ensure_ascii=False) for k in (pair.first, pair.second))
        label = f"{pair.inliers} of {len(pair.matches.pairs)}, {pair.confidence:.2f}"
        style = "solid" if pair.confidence >= confidence else "dashed"
        lines.append(f'  {a} -- {b} [label="{label}", style={style}];')
    return "\n".join([*lines, "}", ""])


def draw_graph(views: Sequence[View], pairs: Sequence[Pair], confidence: float) -> Image:
    """Draw photos on a circle, sure pairs as green lines with their confidence, others gray."""
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
        sure = pair.confidence >= confidence
        a, b = spots[pair.first], spots[pair.second]
        cv2.line(page, a, b, _SURE if sure else _UNSURE, 2 if sure else 1, cv2.LINE_AA)
        if sure:
            half = ((a[0] + b[0]) // 2, (a[1] + b[1]) // 2)
            _text(page, f"{pair.confidence:.1f}", half)
    for view, spot in zip(views, spots, strict=True):
        cv2.circle(page, spot, 5, _INK, -1, cv2.LINE_AA)
        _text(page, view.name, (spot[0], spot[1] - 14))
    return page


def _text(page: Image, text: str, middle: tuple[int, int]) -> None:
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    # OpenCV's font has no letters beyond ASCII.
    text = text.encode("ascii", "replace").decode()
    (width, height), _ = cv2.getTextSize(text, font, size, 1)
    x = int(np.clip(middle[0] - width // 2, 2, max(2, page.shape[1] - width - 2)))
    y = middle[1] + height // 2
    cv2.rectangle(page, (x - 2, y - height - 3), (x + width + 2, y + 4), (255, 255, 255), -1)
    cv2.putText(page, text, (x, y), font, size, _INK, 1, cv2.LINE_AA)
