"""Pictures of flow, of matches and of alignment. Arrays in, a new uint8 RGB picture out."""

from flowmatch.draw.checkerboard import checkerboard
from flowmatch.draw.flow import (
    Picture,
    draw_arrows,
    error_legend,
    error_map,
    flow_legend,
    flow_to_image,
    side_by_side,
)
from flowmatch.draw.matches import draw_matches

__all__ = [
    "Picture",
    "checkerboard",
    "draw_arrows",
    "draw_matches",
    "error_legend",
    "error_map",
    "flow_legend",
    "flow_to_image",
    "side_by_side",
]
