"""benchmarks/model.py: its rules, not its numbers."""

import importlib.util
from pathlib import Path

import pytest

_FILE = Path(__file__).parents[2] / "benchmarks" / "model.py"
_SPEC = importlib.util.spec_from_file_location("model", _FILE)
model = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(model)


def test_a_wave_waits_for_its_slowest_part():
    full = model.Launch(264, 8, 2, 4000, 0).microseconds()
    assert full == pytest.approx(16 * 4000 / 4 / 1800)  # issue
    assert model.Launch(265, 8, 2, 4000, 0).microseconds() == 2 * full
    assert model.Launch(1, 8, 2, 0, 10).microseconds() == pytest.approx(6500 / 1800)  # latency


@pytest.mark.parametrize("tiles", [56, 192, 768, 3000])
@pytest.mark.parametrize("channels, side", [(64, 9), (256, 9), (16, 11), (32, 21), (256, 21)])
def test_tf32_is_not_slower_where_it_is_chosen(tiles, channels, side):
    """correlation() takes it for 64 channels and more, and for wide windows from 16 on."""
    tf32, plain = (
        sum(launch.microseconds() for launch in model.volume(tiles, channels, side, dtype))
        for dtype in ("tf32", "float32")
    )
    assert tf32 <= plain


@pytest.mark.parametrize("case", model.TILES)
def test_tensor_cores_are_chosen_where_they_are_faster(case):
    """correlation() takes them for half types."""
    side = 9 if case == "PWC" else 21

    def time(function, dtype):
        launches = function(model.TILES[case], model.CHANNELS[case], side, dtype)
        return sum(launch.microseconds() for launch in launches)

    assert time(model.volume, "bfloat16") < time(model.volume, "float32")
    assert time(model.volume_gradients, "bfloat16") < time(model.volume_gradients, "float32")


def test_every_case_is_at_least_its_floor():
    for (op, case, kind), floors in model.FLOORS.items():
        for dtype, floor in zip(("float32", "bfloat16"), floors, strict=True):
            assert floor is None or model.modelled(op, case, kind, dtype) >= floor
