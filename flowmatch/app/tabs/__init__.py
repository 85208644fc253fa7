"""The tabs of the app: which files and options each asks for, and the task that takes them."""

from flowmatch.app.tabs import alignment, clip, flow, matches, panorama, scans

TABS = (flow.TAB, clip.TAB, matches.TAB, panorama.TAB, scans.TAB, alignment.TAB)
"""In the order of the page."""

__all__ = ["TABS"]
