"""The training loop: it learns, it resumes to the same bits, and it stops on nonsense."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from flowmatch.training import Schedule, TrainingDiverged, load_checkpoint, save_checkpoint, train


class Line:
    """Points of y = 3 x - 1, in no order."""

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        x = torch.tensor([index * 389 % 1000 / 500 - 1])
        return x, 3 * x - 1


def squared(model, batch):
    x, y = batch
    error = (model(x) - y).square().mean()
    return error, {"root": error.item() ** 0.5}


def collate(samples):
    return [torch.stack(part) for part in zip(*samples, strict=True)]


def fit(path, steps=40, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    schedule = Schedule(steps, batch=8, learning_rate=0.05, weight_decay=0.0)
    settings = {"checkpoint": path, "run": {"name": "line"}, "workers": 0, "precision": "float32"}
    return train(model, Line(), collate, squared, schedule, **settings | options)


def test_learns_and_reports(tmp_path):
    seen = []
    model = fit(tmp_path / "c.pt", 300, report=seen.append)
    assert not model.training
    assert [p.step for p in seen] == list(range(1, 301))
    assert seen[-1].metrics["root"] < 0.1 * seen[0].metrics["root"]
    assert seen[-1].seconds_left == 0


def test_resumes_to_the_same_bits(tmp_path):
    class Stop(Exception):
        pass

    def stop_at_25(progress):
        if progress.step == 25:
            raise Stop

    whole = fit(tmp_path / "whole.pt")
    with pytest.raises(Stop):
        fit(tmp_path / "parts.pt", every=10, report=stop_at_25)
    assert load_checkpoint(tmp_path / "parts.pt")["step"] == 20
    resumed = fit(tmp_path / "parts.pt", resume=True)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_resume_of_a_finished_run_changes_nothing(tmp_path):
    first = fit(tmp_path / "c.pt")
    again = fit(tmp_path / "c.pt", resume=True)
    assert torch.equal(first[0].weight, again[0].weight)


def test_another_run_is_not_continued(tmp_path):
    fit(tmp_path / "c.pt")
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(tmp_path / "c.pt", resume=True, run={"name": "parabola"})


def test_stops_when_the_loss_is_no_number(tmp_path):
    def broken(model, batch):
        return model(batch[0]).sum() * torch.nan, {}

    with pytest.raises(TrainingDiverged, match="nan at step 0; its batch is in .*c.batch.pt"):
        train(
            nn.Linear(1, 1), Line(), collate, broken, Schedule(3, 8),
            checkpoint=tmp_path / "c.pt", run={}, workers=0,
        )  # fmt: skip
    batch = torch.load(tmp_path / "c.batch.pt", weights_only=True)
    assert batch[0].shape == (8, 1)


def test_checkpoints_are_not_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"step": 0, "run": {}, "model": Hostile(), "optimizer": {}}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="c.pt is not a readable checkpoint"):
        load_checkpoint(tmp_path / "c.pt")


def test_checkpoint_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    torch.save({"weights": 1}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"'model', 'optimizer', 'run', 'step'\] missing"):
        load_checkpoint(tmp_path / "c.pt")


ENDLESS = """
import sys, torch
from pathlib import Path
from flowmatch.training import Checkpoint, save_checkpoint
step = 0
while True:
    step += 1
    state = {"x": torch.full((200_000,), float(step))}
    save_checkpoint(Path(sys.argv[1]), Checkpoint(step=step, run={}, model=state, optimizer={}))
"""


def test_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "c.pt"
    writer = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)])
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    found = load_checkpoint(path)
    assert (found["model"]["x"] == found["step"]).all()


def test_failed_write_keeps_the_old_checkpoint(tmp_path):
    path = tmp_path / "c.pt"
    good = {"step": 1, "run": {}, "model": {}, "optimizer": {}}
    save_checkpoint(path, good)
    with pytest.raises(AttributeError):
        save_checkpoint(path, {**good, "run": lambda: None})  # cannot be pickled
    assert load_checkpoint(path)["step"] == 1
