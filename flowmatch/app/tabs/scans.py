"""The tab of scans."""

import gradio as gr

from flowmatch.app.inputs import Inputs
from flowmatch.app.layout import Tab, several
from flowmatch.app.tasks import registration_of_scans
from flowmatch.io import SCAN_SUFFIXES
from flowmatch.registration.options import SAMPLING, RegisterOptions
from flowmatch.registration.store import available


def _inputs() -> Inputs:
    defaults = RegisterOptions()
    files = {
        "scans": several(f"Two or more scans ({', '.join(SCAN_SUFFIXES)}), metres",
                         [*SCAN_SUFFIXES])
    }  # fmt: skip
    with gr.Row():
        voxel = gr.Number(0, minimum=0, label="Voxel, m", info="0 chooses it by the scans.")
        model = gr.Dropdown(["auto", "fpfh", *available()], value="auto", label="Descriptor")
    with gr.Accordion("More options", open=False), gr.Row():
        icp = gr.Checkbox(defaults.icp, label="Refinement by ICP")
        sampling = gr.Dropdown([*SAMPLING], value=defaults.sampling, label="Keypoint sampling")
        keypoints = gr.Number(
            defaults.keypoints, minimum=100, maximum=20_000, precision=0,
            label="Keypoints per scan",
        )  # fmt: skip
        seed = gr.Number(defaults.seed, minimum=0, precision=0, label="Random seed")
        from_origin = gr.Checkbox(False, label="Sensors stood at the origins of the scans")
    options = {
        "voxel": voxel, "model": model, "icp": icp, "sampling": sampling, "keypoints": keypoints,
        "seed": seed, "from_origin": from_origin,
    }  # fmt: skip
    return Inputs(files, options)


TAB = Tab(
    "Scans",
    "The rigid motion that moves the first of two scans onto the second, from any position, and "
    "whether to trust it. More than two are merged.",
    registration_of_scans,
    _inputs,
    columns=1,
    run="Register scans",
)
