"""The tab of alignment."""

import gradio as gr

from flowmatch.align import BASELINES, available
from flowmatch.app.inputs import Inputs
from flowmatch.app.layout import Tab, picture
from flowmatch.app.tasks import alignment_of_pictures


def _inputs() -> Inputs:
    with gr.Row():
        files = {"first": picture("Reference picture"), "second": picture("Picture to warp")}
    with gr.Row():
        model = gr.Dropdown(["default", *available(), *BASELINES], value="default", label="Method")
        cells = gr.Slider(2, 32, value=8, step=1, label="Squares of the checkerboard")
    return Inputs(files, {"model": model, "cells": cells})


TAB = Tab(
    "Alignment",
    "One picture warped onto another that shows the same thing and looks different.",
    alignment_of_pictures,
    _inputs,
    columns=2,
    run="Align pictures",
)
