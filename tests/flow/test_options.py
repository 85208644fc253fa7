"""Options of flow estimation, and their checks."""

import pytest

from flowmatch.flow import FlowOptions, SequenceOptions


@pytest.mark.parametrize("zoom", [0.2, 4.5, -1.0, float("nan")])
def test_zoom_is_bounded(zoom):
    with pytest.raises(ValueError, match=r"zoom must be 0.25 to 4, got"):
        FlowOptions(zoom=zoom)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "int8"),
        ({"quality": "finest"}, "quality must be fast, good, best, got 'finest'"),
        ({"tile": 8}, "tile must be at least 64 pixels, got 8"),
        ({"tile": 64, "overlap": 33}, "overlap must be 0 to half a tile, got 33 of 64"),
        ({"overlap": -1}, "overlap must be 0 to half a tile, got -1 of None"),
    ],
)
def test_flow_options_refuse_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        FlowOptions(**options)


@pytest.mark.parametrize(
    ("options", "refines", "includes_dis"),
    [
        ({}, True, True),
        ({"quality": "fast"}, False, False),
        ({"quality": "best"}, True, True),
        ({"quality": "fast", "refine": True}, True, False),
        ({"quality": "fast", "with_dis": True}, False, True),
        ({"with_dis": False}, True, False),
        ({"quality": "best", "refine": False}, False, True),
    ],
)
def test_switches_replace_parts_of_the_quality(options, refines, includes_dis):
    result = FlowOptions(**options)
    assert (result.refines, result.includes_dis) == (refines, includes_dis)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zoom": 2.0}, "zoom 2"),
        ({"tile": 64}, "without tiles, got tile 64"),
    ],
)
def test_a_warm_start_needs_whole_frames_at_their_own_size(options, message):
    with pytest.raises(ValueError, match=message):
        SequenceOptions(FlowOptions(**options), weights="test", warm_start=True)


def test_an_unknown_suffix_is_refused():
    with pytest.raises(ValueError, match="suffix must be one of .*, got '.gif'"):
        SequenceOptions(suffix=".gif")
