"""The training loop: it learns, it resumes to the same bits, and it stops on nonsense."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from flowmatch.io._lock import only_writer
from flowmatch.training import (
    Run,
    Schedule,
    TrainingDiverged,
    load_checkpoint,
    save_checkpoint,
    train,
)


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


def fit(path, steps=40, loss=squared, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    schedule = Schedule(steps, batch=8, learning_rate=0.05, weight_decay=0.0, average=0.9)
    settings = {
        "checkpoint": path,
        "run": Run(facts={"name": "line"}),
        "workers": 0,
        "precision": "float32",
    }
    return train(model, Line(), collate, loss, schedule, **settings | options)


def test_learns_and_reports(tmp_path):
    seen = []
    model = fit(tmp_path / "c.pt", 300, on_step=seen.append)
    assert not model.training
    assert [p.step for p in seen] == list(range(1, 301))
    assert seen[-1].metrics["root"] < 0.1 * seen[0].metrics["root"]
    assert seen[-1].seconds_left == 0


def test_two_runs_with_one_checkpoint(tmp_path):
    with only_writer(tmp_path / "c.pt"), pytest.raises(BlockingIOError, match=r"writing .*c\.pt"):
        fit(tmp_path / "c.pt", 2)
    assert not list(tmp_path.iterdir())
    fit(tmp_path / "c.pt", 2)
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("killed", [False, True])
def test_resumes_to_the_same_bits(tmp_path, killed):
    """An error keeps all finished steps; a killed process, those of the last checkpoint."""

    class Stop(Exception):
        pass

    def stop_at_25(progress):
        if progress.step == 25:
            if killed:
                shutil.copy(tmp_path / "parts.pt", tmp_path / "at_20.pt")
            raise Stop

    whole = fit(tmp_path / "whole.pt")
    with pytest.raises(Stop):
        fit(tmp_path / "parts.pt", every=10, on_step=stop_at_25)
    torch.manual_seed(99)  # whatever happened in between
    checkpoint = tmp_path / ("at_20.pt" if killed else "parts.pt")
    assert load_checkpoint(checkpoint)["step"] == (20 if killed else 25)
    resumed = fit(checkpoint, resume=True)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert checkpoint.read_bytes() == (tmp_path / "whole.pt").read_bytes()


@pytest.fixture
def ctrl_c():
    """What a shell starts in the background ignores the signal, and hands that down."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def noisy(model, batch):
    error, metrics = squared(model, batch)
    return error * (1 + 0.5 * torch.rand(())), metrics


def interrupted_at(at, interrupt):
    """A loss during whose call number `at` something happens, before anything is drawn."""
    calls = []

    def loss(model, batch):
        calls.append(batch)
        if len(calls) == at:
            interrupt()
        return noisy(model, batch)

    return loss


def test_ctrl_c_ends_the_step_and_keeps_it(tmp_path, ctrl_c):
    whole = fit(tmp_path / "whole.pt", loss=noisy)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "c.pt", loss=interrupted_at(17, ctrl_c))
    assert load_checkpoint(tmp_path / "c.pt")["step"] == 17
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def between(progress):
        if progress.step == 23:
            ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "c.pt", loss=noisy, resume=True, on_step=between)
    assert load_checkpoint(tmp_path / "c.pt")["step"] == 23
    resumed = fit(tmp_path / "c.pt", loss=noisy, resume=True)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_half_step_is_never_kept(tmp_path, ctrl_c):
    def twice():
        ctrl_c()
        ctrl_c()

    for at in (1, 17):
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / f"{at}.pt", loss=interrupted_at(at, twice), every=10)
    assert not (tmp_path / "1.pt").exists()
    assert load_checkpoint(tmp_path / "17.pt")["step"] == 10


def test_batches_are_prepared_where_they_are_used(tmp_path):
    """What workers send is anything; what is learnt from, and kept if it diverges, is prepared."""

    def prepare(batch, device):
        assert device == torch.device("cpu")
        return collate(batch)

    whole = fit(tmp_path / "whole.pt")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    settings = {"run": Run(), "workers": 0, "precision": "float32", "prepare": prepare}
    schedule = Schedule(40, batch=8, learning_rate=0.05, weight_decay=0.0, average=0.9)
    train(model, Line(), list, squared, schedule, checkpoint=tmp_path / "c.pt", **settings)
    for a, b in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(TrainingDiverged):
        train(
            model, Line(), list, lambda m, b: (m(b[0]).sum() * torch.nan, {}), schedule,
            checkpoint=tmp_path / "d.pt", **settings,
        )  # fmt: skip
    batch = torch.load(tmp_path / "d.batch.pt", weights_only=True)
    assert [part.shape for part in batch] == [(8, 1), (8, 1)]


def test_resume_of_a_finished_run_changes_nothing(tmp_path):
    first = fit(tmp_path / "c.pt")
    again = fit(tmp_path / "c.pt", resume=True)
    assert torch.equal(first[0].weight, again[0].weight)


def test_another_run_is_not_continued(tmp_path):
    fit(tmp_path / "c.pt")
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(tmp_path / "c.pt", resume=True, run=Run(facts={"name": "parabola"}))


def test_stops_when_the_loss_is_no_number(tmp_path):
    def broken(model, batch):
        return model(batch[0]).sum() * torch.nan, {}

    with pytest.raises(TrainingDiverged, match="nan at step 0; its batch is in .*c.batch.pt"):
        train(
            nn.Linear(1, 1), Line(), collate, broken, Schedule(3, 8),
            checkpoint=tmp_path / "c.pt", run=Run(), workers=0,
        )  # fmt: skip
    batch = torch.load(tmp_path / "c.batch.pt", weights_only=True)
    assert batch[0].shape == (8, 1)


def test_checkpoints_are_not_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"step": 0, "run": {}, "model": Hostile(), "optimizer": {}}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="c.pt is not a complete file of tensors only"):
        load_checkpoint(tmp_path / "c.pt")


def test_checkpoint_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    torch.save({"weights": 1}, tmp_path / "c.pt")
    wanted = r"\['average', 'model', 'optimizer', 'random', 'run', 'step'\] missing"
    with pytest.raises(ValueError, match=wanted):
        load_checkpoint(tmp_path / "c.pt")


ENDLESS = """
import sys, torch
from pathlib import Path
from flowmatch.training import Checkpoint, save_checkpoint
step = 0
while True:
    step += 1
    state = {"x": torch.full((200_000,), float(step))}
    parts = {"run": {}, "optimizer": {}, "average": {}, "random": None}
    save_checkpoint(Path(sys.argv[1]), Checkpoint(step=step, model=state, **parts))
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
    good = {"step": 1, "run": {}, "model": {}, "optimizer": {}, "average": {}, "random": None}
    save_checkpoint(path, good)
    with pytest.raises(AttributeError):
        save_checkpoint(path, {**good, "run": lambda: None})  # cannot be pickled
    assert load_checkpoint(path)["step"] == 1


def test_ends_with_the_average(tmp_path):
    """The same run once more, with the average recomputed from the weights after each step."""
    seen = []
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    means = {key: value.clone() for key, value in model.state_dict().items()}

    def follow(progress):
        keep = min(0.5, (1 + progress.step) / (10 + progress.step))
        for key, value in model.state_dict().items():
            means[key] = keep * means[key] + (1 - keep) * value
        seen.append(model.weight.item())

    train(
        model, Line(), collate, squared, Schedule(20, 8, learning_rate=0.1, average=0.5),
        checkpoint=tmp_path / "c.pt", run=Run(), workers=0, precision="float32", on_step=follow,
    )  # fmt: skip
    torch.testing.assert_close(model.state_dict(), means)
    assert model.weight.item() != seen[-1]
    kept = load_checkpoint(tmp_path / "c.pt")
    assert kept["model"]["weight"].item() == pytest.approx(seen[-1])


def test_schedule_that_halves():
    schedule = Schedule(100, 1, learning_rate=8.0, warmup=0.1, halve=(50, 75))
    assert [schedule.rate_at(step) for step in (10, 49, 50, 74, 75, 99)] == [8, 8, 4, 4, 2, 2]


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"average": 1.0}], ids=str)
def test_schedule_refuses(wrong):
    with pytest.raises(ValueError, match="steps and batch must be at least 1"):
        Schedule(**{"steps": 10, "batch": 1, **wrong})


def test_model_is_itself_again_after_training(tmp_path):
    """No autocast is left on it: float32 in, float32 products."""
    torch.manual_seed(0)
    model = nn.Linear(64, 64)
    fit_model = train(
        model, Line(), lambda _: [torch.randn(4, 64)], lambda m, b: (m(b[0]).square().mean(), {}),
        Schedule(2, 8), checkpoint=tmp_path / "c.pt", run=Run(), workers=0, precision="bfloat16",
    )  # fmt: skip
    x = torch.randn(8, 64)
    assert torch.equal(fit_model(x), nn.functional.linear(x, model.weight, model.bias))


def test_logs_for_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path / "c.pt", 25, logs=tmp_path / "logs")
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [10, 20, 25]
    assert events.Scalars("learning_rate")[0].value == pytest.approx(
        Schedule(25, 8, learning_rate=0.05).rate_at(9)
    )


TWO = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
from test_loop import fit
from flowmatch.training import is_first_process
model = fit(Path(sys.argv[1]) / "c.pt")
if is_first_process():
    torch.save(model.state_dict(), Path(sys.argv[1]) / "two.pt")
"""


def test_two_processes_learn_what_one_does(tmp_path):
    """Each takes half of every batch; the mean of their gradients is the gradient of the whole."""
    (tmp_path / "two.py").write_text(TWO)
    here = str(Path(__file__).parent)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    # What an earlier run in this process left in the environment is not for its children.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE")}
    ran = subprocess.run(
        [*launch, str(tmp_path / "two.py"), str(tmp_path), here],
        env={**kept, "OMP_NUM_THREADS": "1"}, timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    one = fit(tmp_path / "one.pt").state_dict()
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


def test_batch_that_cannot_be_split(monkeypatch, tmp_path):
    class Three:
        num_processes = 3

    monkeypatch.setattr("flowmatch.training.loop._accelerator", lambda *_: Three())
    with pytest.raises(ValueError, match="a batch of 8 cannot be split among 3 processes"):
        fit(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("model", {"0.weight": torch.zeros(3, 3)}),
        ("optimizer", {}),
        ("average", {"another": torch.zeros(1)}),
        ("random", None),
        ("step", "many"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_of_other_parts_is_refused(part, content, tmp_path):
    fit(tmp_path / "c.pt", 2)
    save_checkpoint(tmp_path / "c.pt", load_checkpoint(tmp_path / "c.pt") | {part: content})
    with pytest.raises(ValueError, match=r"c\.pt does not fit the run that it names: "):
        fit(tmp_path / "c.pt", 2, resume=True)
