"""The tab of matches."""

import gradio as gr

from flowmatch.app.inputs import Inputs
from flowmatch.app.layout import Tab, picture
from flowmatch.app.tasks import matches_of_pictures
from flowmatch.matching.keypoints import DETECTORS
from flowmatch.matching.networks import DESCRIPTORS
from flowmatch.matching.options import GEOMETRIES, MatchOptions
from flowmatch.matching.store import available


def _inputs() -> Inputs:
    defaults = MatchOptions()
    with gr.Row():
        files = {"first": picture("First picture"), "second": picture("Second picture")}
    geometry = gr.Radio(
        [*(name for name in GEOMETRIES if name != "essential"), "none"], value=defaults.geometry,
        label="Geometry of the scene",
        info="A homography for planes and a camera that only turns; a fundamental matrix for any "
        "other rigid scene.",
    )  # fmt: skip
    with gr.Accordion("More options", open=False), gr.Row():
        names = [name for name, entry in available().items() if entry["model"] in DESCRIPTORS]
        model = gr.Dropdown(
            ["default", *names, "rootsift", "sift", "orb"], value="default", label="Descriptor"
        )
        detector = gr.Dropdown([*DETECTORS], value=defaults.detector, label="Keypoint detector")
        keypoints = gr.Number(
            defaults.keypoints, minimum=100, maximum=20_000, precision=0,
            label="Keypoints per picture",
        )  # fmt: skip
        threshold = gr.Number(
            defaults.threshold, minimum=0.1, maximum=100, label="Largest error of an inlier, px"
        )
        ratio = gr.Slider(0.5, 1, value=defaults.ratio, step=0.01, label="Ratio test")
        mutual = gr.Checkbox(defaults.mutual, label="Mutual nearest neighbours only")
    options = {
        "geometry": geometry, "model": model, "detector": detector, "keypoints": keypoints,
        "threshold": threshold, "ratio": ratio, "mutual": mutual,
    }  # fmt: skip
    return Inputs(files, options)


TAB = Tab(
    "Matches",
    "Points of the first picture in the second, and which of them agree on a geometric model.",
    matches_of_pictures,
    _inputs,
    columns=1,
    run="Find matches",
)
