"""The tab of the flow of a clip."""

import gradio as gr

from flowmatch.app.inputs import Inputs
from flowmatch.app.layout import Tab, several
from flowmatch.app.tabs.flow import file_format, full_colour, network, quality
from flowmatch.app.tasks import flow_of_clip

MOST_FRAMES = 1000


def _inputs() -> Inputs:
    files = {"clip": several("A video, or pictures in the order of their names",
                             ["video", "image"])}  # fmt: skip
    chosen = quality("fast")
    with gr.Row():
        longest_side = gr.Dropdown(
            [("320 px", 320), ("640 px", 640), ("960 px", 960), ("1280 px", 1280),
             ("1920 px", 1920), ("not reduced", 0)],
            value=640, label="Longer side of the frames",
        )  # fmt: skip
        count = gr.Number(60, minimum=2, maximum=MOST_FRAMES, precision=0, label="Frames at most")
    with gr.Accordion("More options", open=False), gr.Row():
        start = gr.Number(0, minimum=0, precision=0, label="First frame")
        stride = gr.Number(1, minimum=1, maximum=100, precision=0, label="Step between frames")
        model, format, max_flow = network(), file_format(), full_colour()
        confidence = gr.Checkbox(False, label="Doubtful flow is gray")
    options = {
        "quality": chosen, "longest_side": longest_side, "count": count, "start": start,
        "stride": stride, "model": model, "format": format, "max_flow": max_flow,
        "confidence": confidence,
    }  # fmt: skip
    return Inputs(files, options)


TAB = Tab(
    "Clip",
    "The flow from each frame of a video to the next, as a video and as files.",
    flow_of_clip,
    _inputs,
    columns=1,
    run="Compute flow",
)
