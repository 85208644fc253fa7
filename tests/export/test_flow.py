"""Flow networks as ONNX files, run by ONNX Runtime."""

import sys

import onnx
import onnxruntime
import pytest
import torch

from flowmatch.cli import main
from flowmatch.export import export_flow
from flowmatch.export.flow import moving_texture
from flowmatch.flow import FlowOptions, estimate_flow, load, save_weights
from flowmatch.flow.networks import MODELS

SMALL = {
    "flownets": {"width": 1 / 16},
    "flownetc": {"width": 1 / 16},
    "pyramid": {"channels": (4, 8, 8), "radius": 2},
    "recurrent-pyramid": {"channels": (4, 8, 8), "passes": (1, 1), "radius": 1},
    "raft-small": {"iterations": 1},
}


def network_of(name):
    """Return a small network whose weights are random, also those that begin at zero."""
    torch.manual_seed(0)
    network = MODELS[name](**SMALL[name]).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.02)
    return network


def run(path, first, second):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (flow,) = session.run(["flow"], {"first": first.numpy(), "second": second.numpy()})
    return torch.from_numpy(flow)


def assert_same(path, network, size, batch=1):
    first, second = moving_texture(*size, batch=batch)
    expected = estimate_flow(first, second, model=network, options=FlowOptions("fast"))
    flow = run(path, first, second)
    assert flow.shape == expected.shape
    assert expected.std() > 1e-3
    assert (flow - expected).abs().max() < 1e-3


def test_fixed_size(tmp_path):
    network = network_of("flownetc")
    report = export_flow(tmp_path / "f.onnx", model=network, size=(70, 101), batch=2)
    assert report.difference < 1e-3
    assert report.outputs == {"flow": (2, 2, 70, 101)}
    assert_same(tmp_path / "f.onnx", network, (70, 101), batch=2)


@pytest.mark.parametrize("name", ["flownets", "raft-small", "recurrent-pyramid"])
def test_any_size(tmp_path, name):
    # Without training, many flows of the third are equally good, and rounding decides among them.
    network = load(name) if name == "recurrent-pyramid" else network_of(name)
    report = export_flow(tmp_path / "f.onnx", model=network)
    assert report.inputs["first"] == (1, 3, "height", "width")
    for size in ((16, 16), (64, 96), (75, 130), (161, 33)):
        assert_same(tmp_path / "f.onnx", network, size)


def test_the_file_has_standard_operators_and_says_what_it_is(tmp_path):
    save_weights(tmp_path / "w.safetensors", network_of("flownets"), "flownets", SMALL["flownets"])
    words = ["--model", str(tmp_path / "w.safetensors"), "--size", "48x64"]
    assert main(["export", "flow", "-o", str(tmp_path / "f.onnx"), *words]) == 0
    model = onnx.load(tmp_path / "f.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 18)}
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about["model"].startswith("w.safetensors ")
    assert "RGB [B, 3, H, W] in [0, 1]" in about["input"] and "pixels" in about["output"]


def test_float16(tmp_path):
    network = network_of("pyramid")
    report = export_flow(tmp_path / "half.onnx", model=network, size=(48, 64), precision="float16")
    assert 0 < report.difference < 0.5
    types = {tensor.data_type for tensor in onnx.load(report.path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in types
    assert next(network.parameters()).dtype == torch.float32


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules["flowmatch.export.flow"].TOLERANCES, "float32", -1)
    with pytest.raises(ValueError, match=r"f.onnx was not written: ONNX Runtime differs"):
        export_flow(tmp_path / "f.onnx", model=network_of("flownets"), size=(32, 32))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, message",
    [
        (["--size", "48"], "--size must be HxW, such as 384x512, or dynamic, got '48'"),
        (["--size", "8x64"], r"size must be (height, width), 16 to 16384 each, got (8, 64)"),
        (["--precision", "int8"], "precision must be one of float32, float16, got 'int8'"),
        (["--model", "surf"], "no weights named 'surf'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, message):
    assert main(["export", "flow", "-o", str(tmp_path / "f.onnx"), *options]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'flowmatch\[onnx\]'"):
        export_flow(tmp_path / "f.onnx")
