"""Charts of horizontal bars."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from flowmatch._opencv import cv2
from flowmatch.draw.picture import draw_text, text_width
from flowmatch.imaging import Image

_LETTERS, _BAR, _GAP, _MARGIN = 22.0, 18, 14, 24
_COLOURS = ((46, 110, 182), (226, 132, 52), (70, 150, 90), (150, 90, 160))
_GRID, _WHISKER = (225, 225, 225), (60, 60, 60)

_STEPS = (0.01, 0.02, 0.04, 0.1, 0.2)
"""Distances of the lines; the axis has five of the smallest that reaches all bars."""

Bar = tuple[float, float]  # value and half its interval; NaN if unknown


def bar_chart(
    groups: Mapping[str, Sequence[Bar]],
    names: Sequence[str],
    *,
    title: str = "",
    width: int = 1200,
) -> Image:
    """Draw percentages as bars with intervals, a row for each name, a colour for each group.

    Args:
        groups: By group, a value and half its interval for each name, shares in 0..1. NaN draws
            no bar, or no interval.
        names: Names of the rows, ASCII.
        title: Title above the chart.
        width: Width of the picture, pixels.

    Returns:
        Picture ``[H, W, 3]``; the height depends on the number of rows.

    Raises:
        ValueError: No rows, no groups, a group without exactly one bar for each row, or a share
            out of range.

    Example:
        >>> bar_chart({"digits": [(0.5, 0.1), (0.7, 0.0)]}, ["one", "two"], width=400).shape
        (156, 400, 3)
    """
    if not names or not groups or any(len(bars) != len(names) for bars in groups.values()):
        raise ValueError(
            f"expected a bar for each of {len(names)} names, "
            f"got {[len(bars) for bars in groups.values()]}"
        )
    if any(not (math.isnan(v) or 0 <= v <= 1) for bars in groups.values() for v, _ in bars):
        raise ValueError("values must be shares in 0..1")
    values = [v + (0 if math.isnan(d) else d) for bars in groups.values() for v, d in bars]
    largest = max((v for v in values if not math.isnan(v)), default=0.0)
    step = next((step for step in _STEPS if 5 * step >= largest), _STEPS[-1])
    row = len(groups) * _BAR + _GAP
    top = round(_MARGIN + (2 * _LETTERS if title else 0) + 1.6 * _LETTERS)
    left = _MARGIN + max(text_width(name, _LETTERS) for name in names) + 12
    # Room for the number to the right of the longest bar.
    full = width - _MARGIN - text_width("100.0", _LETTERS) - left
    if full < 50:
        raise ValueError(f"width must leave bars 50 pixels beside their names, got {width}")
    height = round(top + len(names) * row + 1.5 * _LETTERS)
    page = np.full((height, width, 3), 255, np.uint8)
    if title:
        draw_text(page, title, _MARGIN, _MARGIN + _LETTERS, 1.2 * _LETTERS)
    _legend(page, list(groups), left, top - 0.8 * _LETTERS)
    for line in range(6):
        x = round(left + full * line / 5)
        cv2.line(page, (x, top - 4), (x, height - round(1.4 * _LETTERS)), _GRID, 1)
        label = f"{100 * line * step:.0f}"
        at = x - text_width(label, 0.8 * _LETTERS) / 2
        draw_text(page, label, at, height - 0.5 * _LETTERS, 0.8 * _LETTERS)
    for i, name in enumerate(names):
        y = top + i * row
        middle = y + len(groups) * _BAR / 2
        start = left - 12 - text_width(name, _LETTERS)
        draw_text(page, name, start, middle + 0.32 * _LETTERS, _LETTERS)
        for j, bars in enumerate(groups.values()):
            colour = _COLOURS[j % len(_COLOURS)]
            _bar(page, bars[i], colour, round(left), y + j * _BAR, full / (5 * step))
    return page


def _bar(
    page: Image, bar: Bar, colour: tuple[int, int, int], left: int, top: int, unit: float
) -> None:
    value, interval = bar
    bottom, middle = top + _BAR - 3, top + (_BAR - 3) // 2
    if math.isnan(value):
        draw_text(page, "-", left + 6, bottom, 0.8 * _LETTERS)
        return
    end = round(left + unit * value)
    if end > left:
        cv2.rectangle(page, (left, top), (end, bottom), colour, -1)
    if interval > 0:  # false for NaN
        low, high = (
            round(left + unit * min(1.0, max(0.0, value + d))) for d in (-interval, interval)
        )
        cv2.line(page, (low, middle), (high, middle), _WHISKER, 1)
        for x in (low, high):
            cv2.line(page, (x, middle - 4), (x, middle + 4), _WHISKER, 1)
        end = max(end, high)
    draw_text(page, f"{100 * value:.1f}", end + 8, bottom, 0.8 * _LETTERS)


def _legend(page: Image, groups: list[str], left: float, baseline: float) -> None:
    for j, group in enumerate(groups):
        corner = round(left), round(baseline - 13)
        other = round(left) + 14, round(baseline) + 1
        cv2.rectangle(page, corner, other, _COLOURS[j % len(_COLOURS)], -1)
        draw_text(page, group, left + 22, baseline, _LETTERS)
        left += 22 + text_width(group, _LETTERS) + 30
