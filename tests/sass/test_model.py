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


@pytest.mark.parametrize("case", model.TILES)
def test_tensor_cores_are_chosen_where_they_are_faster(case):
    """correlation() takes them for half types, and for floats where TF32 is allowed."""
    side = 9 if case == "PWC" else 21

    def time(function, dtype):
        launches = function(model.TILES[case], model.CHANNELS[case], side, dtype)
        return sum(launch.microseconds() for launch in launches)

    assert time(model.volume, "bfloat16") < time(model.volume, "float32")
    # With 32 channels TF32 gains nothing: equal within the error of the model.
    assert time(model.volume, "tf32") < 1.1 * time(model.volume, "float32")
    assert time(model.volume_gradients, "bfloat16") < time(model.volume_gradients, "float32")


def test_every_case_is_at_least_its_floor():
    for (op, case, kind), floors in model.FLOORS.items():
        for dtype, floor in zip(("float32", "bfloat16"), floors, strict=True):
            assert floor is None or model.modelled(op, case, kind, dtype) >= floor
