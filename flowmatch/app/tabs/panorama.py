"""The tab of panoramas."""

import gradio as gr

from flowmatch.app.inputs import Inputs
from flowmatch.app.layout import Tab, several
from flowmatch.app.tasks import panorama_of_photos
from flowmatch.stitch.options import CHOICES, StitchOptions


def _inputs() -> Inputs:
    defaults = StitchOptions()
    files = {"photos": several("Photos that overlap, in any order", ["image"])}
    motion = gr.Radio(
        [("rotation", "rotation"), ("affine, for scans", "affine")],
        value=defaults.motion, label="Motion of the camera",
    )  # fmt: skip
    with gr.Row():
        megapixels = gr.Number(
            1, minimum=0, maximum=200, label="Megapixels of a photo", info="0 is the full size."
        )
        format = gr.Dropdown(["jpg", "png", "tif"], value="jpg", label="File format")
    with gr.Accordion("More options", open=False), gr.Row():
        menus = {
            name: gr.Dropdown([*CHOICES[name]], value=getattr(defaults, name), label=label)
            for name, label in (
                ("projection", "Surface"), ("wave", "Straightening of the horizon"),
                ("exposure", "Exposure compensation"), ("seams", "Seams"), ("blend", "Blending"),
            )
        }  # fmt: skip
        confidence = gr.Slider(
            0.3, 3, value=defaults.confidence, step=0.1, label="Least confidence of an overlap"
        )
        crop = gr.Checkbox(defaults.crop, label="Crop to the largest rectangle without holes")
    options = {
        "motion": motion, "megapixels": megapixels, "format": format, **menus,
        "confidence": confidence, "crop": crop,
    }  # fmt: skip
    return Inputs(files, options)


TAB = Tab(
    "Panorama",
    "Photos that overlap, stitched to one picture. Photos of several places make several.",
    panorama_of_photos,
    _inputs,
    columns=1,
    run="Stitch photos",
)
