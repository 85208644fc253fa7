"""Reports of benchmark results: an HTML page and a Markdown table."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from typing import Any

from flowmatch.bench.measure import Row

OURS = "flowmatch"
_COLOURS = ("#c2410c", "#94a3b8")  # ours, others
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1e293b; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; }
h3 { font-size: .95rem; margin: 1rem 0 .2rem; color: #475569; font-weight: 600; }
p { margin: .2rem 0; color: #475569; } svg { display: block; } svg text { font-size: 13px; }
.note { font-size: .85rem; }
"""


def peers(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of other implementations with correct results, fastest first."""
    others = (r for r in rows if r.implementation not in (OURS, "reference") and r.agrees)
    return sorted(others, key=lambda row: row.median_ms)


def group_rows(rows: Iterable[Row]) -> list[list[Row]]:
    """Group rows by op, case, type, device and pass, in the order of measurement, ours first."""
    return [
        list(group)
        for _, group in groupby(rows, lambda r: (r.op, r.case, r.dtype, r.device, r.passes))
    ]


def markdown(rows: Iterable[Row]) -> str:
    """Return a table with a line per case and pass: our time, the ceiling and the fastest peer.

    The spreads are ours and the peer's; those of noisy measurements are bold.
    """
    lines = [
        "| operator | case | pass | time | of the matrix product | against the fastest peer "
        "| spreads |",
        "|---|---|---|---|---|---|---|",
    ]
    for group in group_rows(rows):
        ours = next((r for r in group if r.implementation == OURS), None)
        if ours is None:
            continue
        best = peers(group)
        ceiling = "" if ours.ceiling_fraction is None else f"{ours.ceiling_fraction:.0%}"
        ratio = (
            f"{best[0].median_ms / ours.median_ms:.1f}× {best[0].implementation}" if best else ""
        )
        lines.append(
            f"| {ours.op} | {ours.case}, {ours.dtype} | {ours.passes} | {_time(ours.median_ms)} "
            f"| {ceiling} | {ratio} | {', '.join(map(_spread, [ours, *best[:1]]))} |"
        )
    return "\n".join(lines)


def html_page(content: dict[str, Any], rows: Sequence[Row]) -> str:
    """Return an HTML page: bars for every case, and a roofline of the cases with known flops.

    Args:
        content: Content of a file of `flowmatch bench --json`: ``device``, ``ceilings``, versions.
        rows: Rows of the file.
    """
    ceilings = content["ceilings"]
    versions = ", ".join(f"{k} {v}" for k, v in content.get("versions", {}).items())
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>flowmatch bench</title>",
        f"<style>{_STYLE}</style><h1>flowmatch bench</h1>",
        f"<p>{escape(str(content['device']))}. Matrix product {ceilings['gflops']:.0f} GFLOP/s, "
        f"copy {ceilings['gbytes']:.1f} GB/s.</p><p class=note>{escape(versions)}</p>",
        "<p class=note>Median times. The implementations of a case were checked against a float64 "
        "reference and measured in turns. Bars are milliseconds on a logarithmic scale: each line "
        "is a factor of ten.</p>",
    ]
    for op, of_op in groupby(rows, lambda row: row.op):
        parts.append(f"<h2>{escape(op)}</h2>")
        for group in group_rows(of_op):
            title = f"{group[0].case}, {group[0].dtype}, {group[0].passes}"
            parts.append(f"<h3>{escape(title)}</h3>{_bars(group)}")
    counted = [r for r in rows if r.implementation == OURS and r.gflops and r.intensity]
    if counted:
        parts.append("<h2>Roofline</h2><p class=note>Our kernels against the limits given by the ")
        parts.append("machine's copy bandwidth and matrix product.</p>")
        parts.append(_roofline(counted, ceilings))
    return "\n".join(parts) + "</html>\n"


def _spread(row: Row) -> str:
    return f"**{row.spread:.0%}**" if row.noisy else f"{row.spread:.0%}"


def _time(ms: float) -> str:
    return f"{ms:.3g} ms" if ms < 999.5 else f"{1e-3 * ms:.3g} s"


class _Scale:
    """A logarithmic axis between powers of ten, mapped to pixels."""

    def __init__(self, values: Iterable[float], start: float, length: float) -> None:
        numbers = list(values)
        self.low = math.floor(math.log10(min(numbers)))
        self.high = max(self.low + 1, math.ceil(math.log10(max(numbers))))
        self.start, self.length = start, length

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + self.length * share

    def powers(self) -> list[float]:
        return [10.0**power for power in range(self.low, self.high + 1)]


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'


def _line(path: str, colour: str = "#e2e8f0", width: int = 1) -> str:
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _bars(rows: Sequence[Row]) -> str:
    ours = next((r.median_ms for r in rows if r.implementation == OURS), None)
    left, step = 210, 24
    at = _Scale([0.7 * min(r.median_ms for r in rows), *(r.median_ms for r in rows)], left, 440)
    parts = [_line(f"M{at(power):.1f} 0V{len(rows) * step}") for power in at.powers()]
    for i, row in enumerate(rows):
        mine, end = row.implementation == OURS, at(row.median_ms)
        label = _time(row.median_ms)
        if ours and not mine:
            label += f", {row.median_ms / ours:.1f}× ours"
        if row.noisy:
            label += f", spread {row.spread:.0%}"
        if not row.agrees:
            label += ", DISAGREES"
        parts += [
            _text(left - 8, i * step + 16, row.implementation, 'text-anchor="end"'),
            f'<rect x="{left}" y="{i * step + 4}" width="{end - left:.1f}" height="{step - 8}" '
            f'fill="{_COLOURS[0 if mine else 1]}"/>',
            _text(end + 6, i * step + 16, label),
        ]
    return f'<svg width="860" height="{len(rows) * step + 4}">{"".join(parts)}</svg>'


def _roofline(rows: Sequence[Row], ceilings: dict[str, float]) -> str:
    """Draw GFLOP/s over flops per byte, both logarithmic."""
    peak, ridge = ceilings["gflops"], ceilings["gflops"] / ceilings["gbytes"]
    points = [(row.intensity or ridge, row.gflops or peak) for row in rows]
    left, bottom, wide, high = 60, 310, 560, -300
    x = _Scale([ridge, *(intensity for intensity, _ in points)], left, wide)
    y = _Scale([1.2 * peak, *(gflops for _, gflops in points)], bottom, high)
    parts = []
    for power in x.powers():
        parts.append(_line(f"M{x(power):.1f} {bottom}v{high}"))
        parts.append(_text(x(power), bottom + 18, f"{power:g}", 'text-anchor="middle"'))
    for power in y.powers():
        parts.append(_line(f"M{left} {y(power):.1f}h{wide}"))
        parts.append(_text(left - 6, y(power) + 4, f"{power:g}", 'text-anchor="end"'))
    start = max(10.0**x.low, 10.0**y.low / ceilings["gbytes"])
    roof = f"M{x(start):.1f} {y(start * ceilings['gbytes']):.1f}L{x(ridge):.1f} {y(peak):.1f}"
    parts.append(_line(f"{roof}H{left + wide}", "#334155", 2))
    for number, point in enumerate(points, 1):
        at = x(point[0]), y(point[1])
        parts.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="4" fill="{_COLOURS[0]}"/>')
        parts.append(_text(at[0] + 6, at[1] + 4, str(number)))
    middle = bottom + high / 2
    turned = f'text-anchor="middle" transform="rotate(-90 14 {middle})"'
    parts.append(_text(left + wide / 2, bottom + 38, "flops per byte", 'text-anchor="middle"'))
    parts.append(_text(14, middle, "GFLOP/s", turned))
    legend = "".join(f"<li>{escape(f'{r.op} {r.case}, {r.dtype}, {r.passes}')}</li>" for r in rows)
    return f'<svg width="700" height="360">{"".join(parts)}</svg><ol class=note>{legend}</ol>'
