"""Panoramas: photos that overlap become one picture."""

from flowmatch.stitch.cameras import Camera, Cameras, read_cameras
from flowmatch.stitch.compose import Style
from flowmatch.stitch.crop import Rectangle, largest_rectangle
from flowmatch.stitch.matching import LeftOut
from flowmatch.stitch.pipeline import Panorama, stitch

__all__ = [
    "Camera",
    "Cameras",
    "LeftOut",
    "Panorama",
    "Rectangle",
    "Style",
    "largest_rectangle",
    "read_cameras",
    "stitch",
]
