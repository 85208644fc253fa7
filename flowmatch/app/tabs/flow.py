"""The tab of the flow of two pictures."""

import gradio as gr

from flowmatch.app.inputs import Component, Inputs
from flowmatch.app.layout import Tab, picture
from flowmatch.app.tasks import flow_of_pictures
from flowmatch.flow import available
from flowmatch.flow.options import QUALITIES, SUFFIXES


def quality(value: str) -> Component:
    """Return the field of the quality of a flow."""
    return gr.Radio(
        [*QUALITIES], value=value, label="Quality", info="Fast is the network alone; good and best "
        "also choose among refined flows, pixel by pixel.",
    )  # fmt: skip


def network() -> Component:
    """Return the field of the flow network."""
    names = [name for name in available() if name != "confidence"]
    return gr.Dropdown(["default", *names], value="default", label="Network")


def file_format() -> Component:
    """Return the field of the format of flows."""
    names = {"flo": "flo (Middlebury)", "png": "png (KITTI)"}
    formats = [suffix.removeprefix(".") for suffix in SUFFIXES]
    return gr.Dropdown(
        [(names.get(suffix, suffix), suffix) for suffix in formats], value="flo",
        label="File format",
    )  # fmt: skip


def full_colour() -> Component:
    """Return the field of the motion of full colour."""
    return gr.Number(0, minimum=0, label="Full colour at, px", info="0 takes the 99th percentile.")


def _inputs() -> Inputs:
    with gr.Row():
        files = {"first": picture("First picture"), "second": picture("Second picture")}
    chosen = quality("good")
    with gr.Accordion("More options", open=False), gr.Row():
        model, format, max_flow = network(), file_format(), full_colour()
        zoom = gr.Slider(
            0.5, 4, value=1, step=0.5, label="Zoom",
            info="Above 1 finds small things that move fast; slower.",
        )  # fmt: skip
    options = {
        "quality": chosen, "model": model, "format": format, "max_flow": max_flow, "zoom": zoom,
    }  # fmt: skip
    return Inputs(files, options)


TAB = Tab(
    "Flow",
    "Where each pixel of the first picture is in the second: colours, arrows, occlusion and "
    "confidence. The pictures have the same size.",
    flow_of_pictures,
    _inputs,
    columns=2,
    run="Compute flow",
)
