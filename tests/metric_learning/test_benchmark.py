"""The comparison of methods with hyper-parameters chosen on validation classes."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from flowmatch.metric_learning import benchmark
from flowmatch.metric_learning.benchmark import Protocol, benchmark_rows, run_benchmark
from flowmatch.metric_learning.configurations import SEARCHED, configurations
from flowmatch.metric_learning.data.numbers import render_numbers
from flowmatch.metric_learning.fit import Recipe
from flowmatch.metric_learning.losses import LOSSES, make_loss
from flowmatch.metric_learning.methods import METHODS
from flowmatch.metric_learning.metrics import retrieval_scores
from flowmatch.metric_learning.protocol import raw_pixels

METHOD_NAMES = ("hadsell", "htl")


@pytest.fixture(scope="module")
def parts():
    images = render_numbers(views=3, size=8).select_classes(range(16))
    return images.split_classes(8)


@pytest.fixture
def protocol():
    recipe = Recipe(
        backbone="tiny", dimension=4, size=8, steps=4, classes=3, samples_per_class=2, decay=True
    )
    return Protocol(recipe, every=2, folds=4, networks=2)


def test_every_method_has_the_same_number_of_configurations():
    for name in (*LOSSES, *METHODS):
        tried = configurations(name)
        assert len({str(one) for one in tried}) == len(tried) == 3
        for one in tried if name in LOSSES else ():
            make_loss(name, classes=3, dimension=4, **one.options)
    assert set(SEARCHED) < set(LOSSES) and str(configurations("fastap")[2]) == "bins 10, rate 0.01"


def test_runs_are_files_that_are_not_repeated(protocol, parts, tmp_path, monkeypatch):
    def run(seeds):
        return list(run_benchmark(protocol, *parts, tmp_path, methods=METHOD_NAMES, seeds=seeds))

    first = run(1)
    total = 2 * 3 + 1 + 3
    assert [done for done, _, _ in first] == list(range(1, total + 1))
    assert {count for _, count, _ in first} == {total} and first[0][2] == "hadsell search 0"
    assert len(list(tmp_path.iterdir())) == total
    trained = []
    original = benchmark.train_method
    monkeypatch.setattr(
        benchmark, "train_method", lambda *a, **k: trained.append(k["seed"]) or original(*a, **k)
    )
    run(1)
    assert trained == []
    run(2)
    assert trained == 3 * [1009, 1010]  # two networks of seed 1, of the baseline and two methods
    rows = benchmark_rows(tmp_path, protocol, *parts, METHOD_NAMES, 2)
    assert [row.name for row in rows] == ["pixels", "untrained", *METHOD_NAMES]
    assert [row.seeds for row in rows] == [1, 2, 2, 2] and rows[1].chosen == ""
    seeds = [
        json.loads((tmp_path / f"hadsell-seed-{n}.json").read_text())["result"] for n in (0, 1)
    ]
    values = [seed["separate"]["MAP@R"] for seed in seeds]
    assert rows[2].separate["MAP@R"].mean == pytest.approx(sum(values) / 2)
    assert rows[2].separate["MAP@R"].margin == pytest.approx(
        12.7062 * abs(values[0] - values[1]) / 2, rel=1e-4
    )  # Student's t with one degree of freedom
    pixels = retrieval_scores(raw_pixels(parts[1], 8), torch.from_numpy(parts[1].labels))
    assert rows[0].separate["RP"].mean == pixels.r_precision
    assert math.isnan(rows[0].separate["RP"].margin)


def test_the_configuration_with_the_best_validation_is_chosen(protocol, parts, tmp_path):
    list(run_benchmark(protocol, *parts, tmp_path, methods=("hadsell",), seeds=1))
    (tmp_path / "hadsell-seed-0.json").unlink()
    for n, value in enumerate((0.2, 0.6, 0.4)):
        path = tmp_path / f"hadsell-search-{n}.json"
        content = json.loads(path.read_text())
        content["result"]["validation"] = value
        path.write_text(json.dumps(content))
    list(run_benchmark(protocol, *parts, tmp_path, methods=("hadsell",), seeds=1))
    result = json.loads((tmp_path / "hadsell-seed-0.json").read_text())["result"]
    assert result["options"] == {"margin": 2.0} and result["rate"] == 0.003
    rows = benchmark_rows(tmp_path, protocol, *parts, ("hadsell",), 1)
    assert rows[2].chosen == "margin 2, rate 0.003"


def test_networks_leave_out_classes_and_are_tested_in_their_best_state(
    protocol, parts, tmp_path, monkeypatch
):
    train, test = parts
    seen, states = [], []

    def train_method(name, recipe, images, *, seed, device, check):
        """Set the state to the number of the step, and measure it."""
        seen.append(images.classes)
        network = torch.nn.Linear(1, 1)
        for step in (2, 4):
            torch.nn.init.constant_(network.weight, step)
            check(network, step)
        return network

    def embed(network, images, size):
        if images.classes == test.classes:
            states.append(network.weight.item())
        good = F.one_hot(torch.from_numpy(images.labels), 16).float()
        # The state of step 2 separates the validation classes, that of step 4 does not.
        return good if network.weight.item() == 2 else torch.ones_like(good)

    monkeypatch.setattr(benchmark, "train_method", train_method)
    monkeypatch.setattr(benchmark, "embed", embed)
    list(run_benchmark(protocol, train, test, tmp_path, methods=("hadsell",), seeds=1))
    assert states[-2:] == [2, 2]  # the two networks of hadsell
    left = [set(train.classes) - set(classes) for classes in seen]
    assert all(len(classes) == 2 for classes in left)
    assert left[-2].isdisjoint(left[-1])  # the two networks of a seed
    assert left[0] == left[1] == left[2]  # all configurations are compared on the same classes
    assert not set(test.classes) & {name for classes in seen for name in classes}
    rows = benchmark_rows(tmp_path, protocol, train, test, ("hadsell",), 1)
    assert rows[2].separate["MAP@R"].mean == rows[2].concatenated["MAP@R"].mean == 1


def test_failures_and_files_of_other_runs(protocol, parts, tmp_path):
    recipe = Recipe(backbone="tiny", dimension=8, size=8, steps=2, classes=3, samples_per_class=2)
    small = Protocol(recipe, every=1)  # six embeddings of eight dimensions
    list(run_benchmark(small, *parts, tmp_path, methods=("deep-spectral",), seeds=1))
    rows = benchmark_rows(tmp_path, small, *parts, ("deep-spectral",), 1)
    assert rows[2].seeds == 0
    assert "no configuration could be trained: DeepSpectralLoss needs more" in rows[2].problem
    with pytest.raises(ValueError, match=r"belongs to another run, with other dimension, steps, "):
        list(run_benchmark(protocol, *parts, tmp_path, methods=("deep-spectral",), seeds=1))
    (tmp_path / "untrained-seed-0.json").write_text("{")
    with pytest.raises(ValueError, match="untrained-seed-0.json is not the result of a run"):
        benchmark_rows(tmp_path, small, *parts, (), 1)
    with pytest.raises(ValueError, match="method must be one of contrastive, .*got 'magic'"):
        list(run_benchmark(small, *parts, tmp_path, methods=("magic",)))
    for wrong, message in (
        ({"every": 1, "folds": 1}, "folds must be at least 2, got 1"),
        ({"every": 1, "networks": 5}, "folds must be at least 5, got 4"),
        ({"every": 3}, "steps must be at least 3, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            Protocol(recipe, **wrong)


def test_a_loss_may_have_another_miner(protocol, parts, tmp_path, monkeypatch):
    recipes = []
    original = benchmark.train_method
    monkeypatch.setattr(
        benchmark, "train_method", lambda *a, **k: recipes.append(a[:2]) or original(*a, **k)
    )
    names = ("triplet", "triplet@none", "triplet@hard")
    list(run_benchmark(protocol, *parts, tmp_path, methods=names, seeds=1))
    rows = benchmark_rows(tmp_path, protocol, *parts, names, 1)[2:]
    assert [row.name for row in rows] == list(names) and not any(row.problem for row in rows)
    assert all(recipe.options in ({"margin": 0.2}, {"margin": 0.1}) for _, recipe in recipes[:9])
    assert [(name, recipe.miner) for name, recipe in recipes[:9:3]] == [
        ("triplet", "paper"),
        ("triplet", "none"),
        ("triplet", "hard"),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("triplet@most", "miner must be one of none, random.*got 'most'"),
        ("fastap@hard", "loss fastap compares the whole batch, got miner hard"),
        ("htl@hard", "method must be one of .*got 'htl'"),
    ],
)
def test_unknown_methods_and_miners_are_refused(protocol, parts, tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        next(run_benchmark(protocol, *parts, tmp_path, methods=(name,)))
