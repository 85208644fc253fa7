"""What a browser sends is checked: it may send anything."""

import asyncio
import inspect
import os
import time

import gradio as gr
import pytest

from flowmatch.app.inputs import Inputs, read_inputs
from flowmatch.app.layout import KEPT, Settings, remove_old
from flowmatch.app.page import build_page
from flowmatch.app.tabs import TABS
from flowmatch.app.tasks import TaskResult


def in_event_loop(build):
    """Build a page inside of a loop: outside, gradio makes loops that it never closes."""

    async def main():
        return build()

    return asyncio.run(main())


@pytest.fixture(scope="module")
def inputs():
    return in_event_loop(
        lambda: Inputs(
            {"first": gr.Image(label="First picture"),
             "others": gr.File(label="Others", file_count="multiple")},
            {"kind": gr.Dropdown(["a", "b"], value="a", label="Kind"),
             "count": gr.Number(3, minimum=1, precision=0, label="Count"),
             "share": gr.Slider(0, 1, value=0.5, label="Share"),
             "flag": gr.Checkbox(False, label="Flag")},
        )
    )  # fmt: skip


@pytest.fixture
def sent(tmp_path):
    file = tmp_path / "1f" / "a.png"
    file.parent.mkdir()
    file.write_bytes(b"x")
    entry = {"path": str(file), "orig_name": "a.png"}
    return [entry, [entry, entry], "b", 2.0, 0.25, True]


def test_values_become_arguments(inputs, sent, tmp_path):
    file = tmp_path / "1f" / "a.png"
    assert read_inputs(inputs, sent, tmp_path) == {
        "first": file, "others": [file, file], "kind": "b", "count": 2, "share": 0.25, "flag": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, None, "First picture: add a file first"),
        (0, {"path": None}, "First picture: add a file first"),
        (0, {"path": "http://example.org/a.png"}, "a.png is not here any more"),
        (0, {"path": "/etc/hostname"}, "hostname is not here any more"),
        (1, [], "Others: add a file first"),
        (2, "c", "Kind must be one of a, b, got 'c'"),
        (2, ["a", "b"], "Kind must be one of a, b"),
        (2, None, "Kind must be one of a, b, got None"),
        (3, "2", "Count must be a number from 1 to inf, got '2'"),
        (3, None, "Count must be a number from 1 to inf, got None"),
        (3, 0, "Count must be a number from 1 to inf, got 0"),
        (3, float("nan"), "Count must be a number"),
        (4, 2, "Share must be a number from 0 to 1, got 2"),
    ],
)
def test_other_values_are_refused(inputs, sent, tmp_path, place, value, message):
    sent[place] = value
    with pytest.raises(ValueError, match=message):
        read_inputs(inputs, sent, tmp_path)


def test_links_out_of_the_folder_are_refused(inputs, sent, tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"x")
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    (uploads / "link.png").symlink_to(outside)
    sent[0] = {"path": str(uploads / "link.png")}
    with pytest.raises(ValueError, match=r"link\.png is not here"):
        read_inputs(inputs, sent, uploads)


def test_the_page_has_all_tabs_and_hides_its_interface(tmp_path):
    page = in_event_loop(lambda: build_page(Settings(tmp_path, tmp_path, "cpu", 60)))
    config = page.get_config_file()
    tabs = [part["props"] for part in config["components"] if part["type"] == "tabitem"]
    assert [tab["label"] for tab in tabs] == [tab.name for tab in TABS]
    assert all(event["api_visibility"] == "private" for event in config["dependencies"])


def test_old_results_are_removed(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flow.flo").write_bytes(b"x")
    past = time.time() - KEPT - 1
    os.utime(tmp_path / "old", (past, past))
    remove_old(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("tab", TABS, ids=lambda tab: tab.name)
def test_options_of_a_tab_are_arguments_of_its_task(tab):
    def build():
        with gr.Blocks(analytics_enabled=False):
            return tab.inputs()

    inputs = in_event_loop(build)
    arguments = inspect.signature(tab.task).parameters
    assert {*inputs.files, *inputs.options} <= arguments.keys()
    assert inspect.signature(tab.task).return_annotation is TaskResult
    for name, component in inputs.options.items():
        default = arguments[name].default
        assert component.value == default or not (component.value or default), name
