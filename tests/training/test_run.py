"""What makes a run the same: recipes may grow, and what differs is named."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from flowmatch.training import Run, Schedule, data_digest


@dataclass(frozen=True)
class Recipe:
    model: str
    schedule: Schedule
    arguments: dict[str, Any] = field(default_factory=dict)
    motion: tuple[tuple[float, float], ...] = ((0.3, 0.2),)
    passes: int = 0


RECIPE = Recipe("raft", Schedule(steps=10, batch=2, halve=(5,)), {"width": 0.5})


def test_a_run_is_what_it_kept(tmp_path):
    run = Run(RECIPE, {"seed": 3})
    torch.save(run.record(), tmp_path / "run.pt")
    assert run.differences(torch.load(tmp_path / "run.pt", weights_only=True)) == []
    as_lists = run.record() | {"motion": [[0.3, 0.2]]}
    assert run.differences(as_lists) == []


@pytest.mark.parametrize("path", [("passes",), ("arguments",), ("schedule", "average")], ids=str)
def test_a_field_that_is_younger_than_the_checkpoint_had_its_default(path):
    kept = asdict(replace(RECIPE, arguments={}))
    inner = kept
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    assert Run(replace(RECIPE, arguments={})).differences(kept) == []
    other = replace(RECIPE, passes=3, schedule=replace(RECIPE.schedule, average=0.5))
    expected = {
        "passes": "passes is 0 there and 3 here",
        "arguments": "arguments.width is not set there and 0.5 here",
        "average": "schedule.average is 0.999 there and 0.5 here",
    }
    assert expected[path[-1]] in Run(other).differences(kept)


def test_only_what_differs_is_named():
    other = replace(RECIPE, schedule=replace(RECIPE.schedule, steps=20))
    assert Run(other, {"seed": 1}).differences(Run(RECIPE, {"seed": 0}).record()) == [
        "schedule.steps is 10 there and 20 here",
        "seed is 0 there and 1 here",
    ]
    # What is known to the checkpoint alone did something then.
    assert Run(RECIPE).differences(asdict(RECIPE) | {"old": 1}) == [
        "old is 1 there and not set here"
    ]
    assert "model is not set there and 'raft' here" in Run(RECIPE).differences("no run")


def test_facts_that_a_checkpoint_lacks_are_not_compared():
    run = Run(RECIPE, {"precision": "float32", "data_digest": {"photos": "3"}})
    assert run.differences(asdict(RECIPE)) == []
    other = asdict(RECIPE) | {"precision": "bfloat16", "data_digest": {"video": "1"}}
    assert run.differences(other) == [
        "data_digest.photos is not set there and '3' here",
        "data_digest.video is '1' there and not set here",
        "precision is 'bfloat16' there and 'float32' here",
    ]


def test_training_data_may_move_but_not_change(tmp_path):
    for folder, content in (("a", b"12"), ("b", b"34"), ("c", b"123")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(content)
    digests = [data_digest([tmp_path / folder / "1.png"]) for folder in "abcd"]
    assert digests[0] == digests[1]
    assert len({*digests, data_digest([])}) == 4
    assert data_digest([np.zeros((2, 3))]) != data_digest([np.ones((2, 3))])
