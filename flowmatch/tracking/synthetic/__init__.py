"""Rendered objects over photographs, whose boxes and points are known."""

from flowmatch.tracking.synthetic.clips import RenderedClip, render_clip
from flowmatch.tracking.synthetic.crops import CropPair, CropPairs
from flowmatch.tracking.synthetic.objects import object_box, visible_share

__all__ = [
    "CropPair",
    "CropPairs",
    "RenderedClip",
    "object_box",
    "render_clip",
    "visible_share",
]
