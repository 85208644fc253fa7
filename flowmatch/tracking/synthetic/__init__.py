"""Rendered objects over photographs, whose boxes are known."""

from flowmatch.tracking.synthetic.crops import CropPair, CropPairs
from flowmatch.tracking.synthetic.objects import object_box, visible_share

__all__ = ["CropPair", "CropPairs", "object_box", "visible_share"]
