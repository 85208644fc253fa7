"""Reports of an evaluation: the columns of its tables, and an HTML page with images."""

import base64
import math
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import numpy as np

from flowmatch._opencv import cv2
from flowmatch.draw import error_map, flow_to_image
from flowmatch.flow.data.datasets import LoadedPair
from flowmatch.flow.evaluation.evaluate import FlowEvaluation, FlowRow, Pair
from flowmatch.imaging import Image, resize

MAX_SEQUENCES = 40
"""Largest number of sequences with images on a page; its table has all."""
_MAX_WIDTH = 420  # pixels of an image on the page

COLUMNS: dict[str, Callable[[FlowRow], str]] = {
    "EPE": lambda row: number(row.scores.epe, 3),
    "Fl-all": lambda row: number(row.scores.fl_all, 1),
    ">1px": lambda row: number(row.scores.px1, 1),
    ">3px": lambda row: number(row.scores.px3, 1),
    ">5px": lambda row: number(row.scores.px5, 1),
    "s0-10": lambda row: number(row.scores.s0_10, 2),
    "s10-40": lambda row: number(row.scores.s10_40, 2),
    "s40+": lambda row: number(row.scores.s40_plus, 2),
    "match": lambda row: number(row.scores.matched, 2),
    "unmatch": lambda row: number(row.scores.unmatched, 2),
    "AUSE": lambda row: number(row.scores.ause, 3),
    "AUSE f-b": lambda row: number(row.scores.ause_consistency, 3),
    "ms": lambda row: number(row.milliseconds, 1),
    "MB": lambda row: number(row.peak_mb, 0),
}


def number(value: float, decimals: int) -> str:
    """Return the text of a number in a table, "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"


def known_columns(evaluation: FlowEvaluation) -> dict[str, Callable[[FlowRow], str]]:
    """Return the columns in which any method has a number."""
    rows = evaluation.mean
    return {name: text for name, text in COLUMNS.items() if any(text(row) != "-" for row in rows)}


class FlowGallery:
    """Images of the first pair of each sequence, gathered while an evaluation runs.

    Pass `add` to `evaluate` as ``on_pair``, then write the `page`.

    Args:
        shown: Methods whose flow and error are shown; the others are only in the table.
    """

    def __init__(self, shown: tuple[str, ...]) -> None:
        self.shown = shown
        self._figures: dict[str, str] = {}
        self._left_out = 0

    def add(self, pair: Pair, loaded: LoadedPair, flows: Mapping[str, Any]) -> None:
        """Add the flows of a pair."""
        if pair.sequence in self._figures:
            return
        if len(self._figures) == MAX_SEQUENCES:
            self._left_out += 1
            return
        longest = float(np.nanmax(np.linalg.norm(loaded.truth, axis=-1)))
        largest_error = max(longest / 4, 1.0)
        images = {
            "first frame": loaded.first,
            "second frame": loaded.second,
            f"truth, up to {longest:.1f} px": flow_to_image(loaded.truth, max(longest, 1e-6)),
        }
        for name in self.shown:
            images[name] = flow_to_image(flows[name], max(longest, 1e-6))
            caption = f"error of {name}, 0 to {largest_error:.1f} px"
            images[caption] = error_map(flows[name], loaded.truth, largest_error)
        self._figures[pair.sequence] = "".join(
            f"<figure><img src='{_embed(image)}'><figcaption>{escape(caption)}</figure>"
            for caption, image in images.items()
        )

    def page(self, evaluation: FlowEvaluation, about: str) -> str:
        """Return an HTML page: the table of means, then images and scores per sequence.

        Args:
            evaluation: The evaluation.
            about: One line about the dataset, the network and the device.
        """
        columns = known_columns(evaluation)
        parts = [
            "<!doctype html><html lang=en><meta charset=utf-8><title>flowmatch eval</title>",
            f"<style>{_STYLE}</style><h1>flowmatch eval flow</h1><p>{escape(about)}</p>",
            _table([*evaluation.mean], columns),
        ]
        for rows in (evaluation.groups, evaluation.sequences):
            for name in dict.fromkeys(row.name for row in rows):
                parts.append(f"<h2>{escape(name)}</h2>")
                if rows is evaluation.sequences and name in self._figures:
                    parts.append(f"<div class=row>{self._figures[name]}</div>")
                parts.append(_table([row for row in rows if row.name == name], columns))
        if self._left_out:
            parts.append(f"<p>Images of the first {MAX_SEQUENCES} sequences only.</p>")
        for skipped in evaluation.skipped:
            parts.append(f"<p>Skipped {escape(skipped.name)}: {escape(skipped.reason)}</p>")
        return "\n".join(parts) + "</html>\n"


def _table(rows: list[FlowRow], columns: Mapping[str, Callable[[FlowRow], str]]) -> str:
    """Return a table with a line for each method; the smallest, best number of a column is bold."""
    lines = ["<table><tr><th>", *(f"<th>{escape(name)}" for name in columns)]
    texts = [{name: text(row) for name, text in columns.items()} for row in rows]
    for row, cells in zip(rows, texts, strict=True):
        lines.append(f"<tr><td>{escape(row.method)}")
        for name, text in cells.items():
            values = [float(row_text[name]) for row_text in texts if row_text[name] != "-"]
            best = text != "-" and len(values) > 1 and float(text) == min(values)
            lines.append(f"<td>{'<b>' if best else ''}{text}{'</b>' if best else ''}")
    return "".join(lines) + "</table>"


def _embed(image: Image) -> str:
    """Return an image as a data URL, no wider than it is shown."""
    h, w = image.shape[:2]
    if w > _MAX_WIDTH:
        size = (_MAX_WIDTH, max(1, round(h * _MAX_WIDTH / w)))
        image = resize(image, size)
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


_STYLE = (
    "body{font:15px system-ui,sans-serif;color:#0f172a;max-width:1320px;margin:2em auto;"
    "padding:0 1em}"
    "h2{margin:1.6em 0 .4em;font-size:1.1em}table{border-collapse:collapse;margin:.5em 0}"
    "td,th{padding:.15em .8em;text-align:right;font-variant-numeric:tabular-nums}"
    "td:first-child{text-align:left}tr+tr td{border-top:1px solid #e2e8f0}"
    ".row{display:flex;flex-wrap:wrap;gap:8px}figure{margin:0}img{display:block;width:420px}"
    "figcaption{color:#64748b;font-size:.85em}"
)
