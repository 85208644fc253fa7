"""Bar charts: lengths of bars and intervals, and errors."""

import math

import numpy as np
import pytest

from flowmatch.draw import bar_chart

BLUE, ORANGE = (46, 110, 182), (226, 132, 52)


def lengths(page, colour):
    """Return the widths of bars from top to bottom; the first belongs to the legend."""
    mask = (page == colour).all(-1)
    rows = mask.sum(1)
    starts = np.flatnonzero((rows > 0) & (np.roll(rows, 1) == 0))
    return [int(rows[start : start + 16].max()) for start in starts]


def test_bars_are_as_long_as_their_values():
    groups = {"a": [(1.0, 0.0), (0.5, math.nan)], "b": [(0.25, 0.0), (math.nan, math.nan)]}
    page = bar_chart(groups, ["one", "two"], width=900)
    _, whole, half = lengths(page, BLUE)
    _, quarter = lengths(page, ORANGE)  # the other bar is NaN
    assert half == pytest.approx(whole / 2, abs=2) and quarter == pytest.approx(whole / 4, abs=2)
    assert page.dtype == np.uint8 and page.shape[1] == 900


def test_whiskers_are_as_long_as_the_interval():
    names = ["one", "two"]
    plain = bar_chart({"a": [(0.5, 0.0), (1.0, 0.0)]}, names)
    wide = bar_chart({"a": [(0.5, 0.25), (1.0, 0.0)]}, names)
    whole = lengths(plain, BLUE)[2]
    dark = (wide == (60, 60, 60)).all(-1).sum(1) - (plain == (60, 60, 60)).all(-1).sum(1)
    assert dark.max() == pytest.approx(whole / 2, rel=0.03)


@pytest.mark.parametrize("value, share", [(0.05, 1.0), (0.051, 0.51), (0.15, 0.75), (0.6, 0.6)])
def test_the_axis_ends_above_the_longest_bar(value, share):
    """At 5, 10, 20, 50 or 100 percent."""
    whole = lengths(bar_chart({"a": [(1.0, 0.0)]}, ["one"]), BLUE)[1]
    length = lengths(bar_chart({"a": [(value, 0.0)]}, ["one"]), BLUE)[1]
    assert length == pytest.approx(share * whole, abs=2)


def test_errors():
    with pytest.raises(ValueError, match=r"a bar for each of 2 names, got \[1\]"):
        bar_chart({"a": [(0.5, 0.0)]}, ["one", "two"])
    with pytest.raises(ValueError, match=r"shares in 0\.\.1"):
        bar_chart({"a": [(1.5, 0.0)]}, ["one"])
    with pytest.raises(ValueError, match="bars 50 pixels beside their names, got 100"):
        bar_chart({"a": [(0.5, 0.0)]}, ["one"], width=100)
