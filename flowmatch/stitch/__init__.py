"""Panoramas: photos that overlap are stitched to one image."""

from flowmatch.io.masked import find_masks
from flowmatch.stitch.cameras import CAMERA_MODELS, Camera, Cameras, read_cameras, turn_view
from flowmatch.stitch.compose import WarpedPhoto
from flowmatch.stitch.crop import Rectangle, largest_rectangle
from flowmatch.stitch.matching import LeftOut
from flowmatch.stitch.options import StitchOptions
from flowmatch.stitch.photos import Photo, open_photos
from flowmatch.stitch.pipeline import (
    Panorama,
    PhotoGroup,
    PhotoGroups,
    find_cameras,
    render_panorama,
    render_panoramas,
    stitch_photos,
)
from flowmatch.stitch.report import StitchReport
from flowmatch.stitch.video import ChosenFrame, choose_frames

__all__ = [
    "CAMERA_MODELS",
    "Camera",
    "Cameras",
    "ChosenFrame",
    "LeftOut",
    "Panorama",
    "Photo",
    "PhotoGroup",
    "PhotoGroups",
    "Rectangle",
    "StitchOptions",
    "StitchReport",
    "WarpedPhoto",
    "choose_frames",
    "find_cameras",
    "find_masks",
    "largest_rectangle",
    "open_photos",
    "read_cameras",
    "render_panorama",
    "render_panoramas",
    "stitch_photos",
    "turn_view",
]
