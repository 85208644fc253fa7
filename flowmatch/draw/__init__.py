"""Draw flow, matches, alignments, contact sheets and charts.

Every function takes arrays and returns a new picture, uint8 RGB ``[H, W, 3]``.
"""

from flowmatch.draw.bars import bar_chart
from flowmatch.draw.checkerboard import checkerboard
from flowmatch.draw.flow import draw_arrows, error_legend, error_map, flow_legend, flow_to_image
from flowmatch.draw.grid import side_by_side
from flowmatch.draw.matches import draw_matches
from flowmatch.draw.scatter import scatter
from flowmatch.draw.sheet import contact_sheet

__all__ = [
    "bar_chart",
    "checkerboard",
    "contact_sheet",
    "draw_arrows",
    "draw_matches",
    "error_legend",
    "error_map",
    "flow_legend",
    "flow_to_image",
    "scatter",
    "side_by_side",
]
