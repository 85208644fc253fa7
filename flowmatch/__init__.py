"""Dense correspondence and optical flow for PyTorch (not generative flow matching).

    import flowmatch as fm

    first, second = fm.io.read_image("a.png"), fm.io.read_image("b.png")
    flow = fm.estimate_flow(first, second)  # float32 [H, W, 2], pixels

This page has what most people need. Each task is a package with more of it: ``flow``, ``matching``,
``registration``, ``align``, ``tracking``, ``stitch``, ``retrieval``, ``localisation``,
``metric_learning``, ``selfsupervised``; so are the operators (``ops``), files (``io``) and pictures
(``draw``). Everything is imported when it is first used.
"""

from typing import TYPE_CHECKING

from flowmatch._lazy import import_when_used

if TYPE_CHECKING:
    from flowmatch import (
        align,
        batch,
        bench,
        compat,
        draw,
        export,
        flow,
        geometry,
        hub,
        io,
        localisation,
        matching,
        metric_learning,
        ops,
        registration,
        retrieval,
        selfsupervised,
        stitch,
        tracking,
        training,
    )
    from flowmatch.align import Alignment, align_images
    from flowmatch.catalogue import available, load
    from flowmatch.flow import FlowBothWays, FlowOptions, estimate_both_ways, estimate_flow
    from flowmatch.localisation import Localisation, LocaliseOptions, localise_photo
    from flowmatch.matching import Matches, MatchOptions, match_images
    from flowmatch.registration import RegisterOptions, Registration, register_scans
    from flowmatch.retrieval import build_index, search
    from flowmatch.stitch import Panorama, StitchOptions, stitch_photos
    from flowmatch.tracking import BoxTracks, PointTracks, track_boxes, track_points

__version__ = "0.1.0"

__all__ = [
    "Alignment",
    "BoxTracks",
    "FlowBothWays",
    "FlowOptions",
    "Localisation",
    "LocaliseOptions",
    "MatchOptions",
    "Matches",
    "Panorama",
    "PointTracks",
    "RegisterOptions",
    "Registration",
    "StitchOptions",
    "align",
    "align_images",
    "available",
    "batch",
    "bench",
    "build_index",
    "compat",
    "draw",
    "estimate_both_ways",
    "estimate_flow",
    "export",
    "flow",
    "geometry",
    "hub",
    "io",
    "load",
    "localisation",
    "localise_photo",
    "match_images",
    "matching",
    "metric_learning",
    "ops",
    "register_scans",
    "registration",
    "retrieval",
    "search",
    "selfsupervised",
    "stitch",
    "stitch_photos",
    "track_boxes",
    "track_points",
    "tracking",
    "training",
]

# Where a name is defined; the other names of __all__ are modules.
_DEFINED_IN = {
    "flow": ("FlowBothWays", "FlowOptions", "estimate_both_ways", "estimate_flow"),
    "matching": ("MatchOptions", "Matches", "match_images"),
    "align": ("Alignment", "align_images"),
    "registration": ("RegisterOptions", "Registration", "register_scans"),
    "stitch": ("Panorama", "StitchOptions", "stitch_photos"),
    "tracking": ("BoxTracks", "PointTracks", "track_boxes", "track_points"),
    "retrieval": ("build_index", "search"),
    "localisation": ("Localisation", "LocaliseOptions", "localise_photo"),
    "catalogue": ("available", "load"),
}

__getattr__ = import_when_used(__name__, __all__, _DEFINED_IN)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
