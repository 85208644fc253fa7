"""Files of weights and downloads of kornia's networks: what is read, and what is refused."""

import urllib.request

import pytest
import torch
from safetensors.torch import save_file

from flowmatch.matching.learned import weights as module
from flowmatch.matching.learned.detectors import load_detector
from flowmatch.matching.learned.weights import Source, load_network


def source(**rest):
    return Source("a layer", lambda: torch.nn.Linear(2, 3), lambda: torch.nn.Linear(2, 3), **rest)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"extractor": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {f"matcher.{k}": v for k, v in state.items()} | {"loss.x": torch.ones(1)},
    ],
)
def test_published_files(tmp_path, wrap):
    state = torch.nn.Linear(2, 3).state_dict()
    torch.save(wrap(state), tmp_path / "w.pth")
    network = load_network(source(), tmp_path / "w.pth", torch.device("cpu"))
    assert not network.training
    torch.testing.assert_close(network.state_dict(), state)


def test_safetensors(tmp_path):
    state = torch.nn.Linear(2, 3).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    network = load_network(source(), tmp_path / "w.safetensors", torch.device("cpu"))
    torch.testing.assert_close(network.state_dict(), state)


def test_other_files_are_refused(tmp_path, published):
    (tmp_path / "broken.pth").write_bytes(b"root:x:0:0")
    (tmp_path / "broken.safetensors").write_bytes(b"root:x:0:0")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"weight": torch.full((3, 2), torch.nan), "bias": torch.ones(3)}, tmp_path / "n.pth")
    for name, reason in (
        ("broken.pth", "broken.pth is no file of weights, or is damaged"),
        ("broken.safetensors", "is not a whole .safetensors file"),
        ("list.pth", "does not fit a layer: bias is missing; weight is missing"),
        ("n.pth", "weights must be finite"),
    ):
        with pytest.raises(ValueError, match=reason):
            load_network(source(), tmp_path / name, torch.device("cpu"))
    with pytest.raises(FileNotFoundError, match=r"none\.pth does not exist"):
        load_network(source(), tmp_path / "none.pth", torch.device("cpu"))
    with pytest.raises(ValueError, match="does not fit keynet"):
        load_detector("keynet", published("xfeat"), "cpu")


def test_a_file_with_code_is_not_run(tmp_path):
    class Code:
        def __reduce__(self):
            return (print, ("this ran",))

    torch.save({"weight": Code()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="is no file of weights"):
        load_network(source(), tmp_path / "code.pth", torch.device("cpu"))


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch, capsys):
    import kornia.core.download as download

    def offline(*args, **rest):
        raise urllib.request.URLError("no network")

    monkeypatch.setattr(download, "urlopen", offline)
    monkeypatch.setattr(download, "_BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConnectionError, match="weights of disk cannot be downloaded; give a file"):
        load_detector("disk", None, "cpu")
    assert capsys.readouterr() == ("", "")


def test_a_missing_or_old_kornia_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    for stand_in, state in ((missing, "is not installed"), (lambda name: torch, "is too old")):
        monkeypatch.setattr(module.importlib, "import_module", stand_in)
        with pytest.raises(
            ImportError, match=rf"detector disk needs kornia 0\.9 or newer, which {state}"
        ):
            module.kornia_features("detector disk")
