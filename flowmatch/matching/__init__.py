"""Matching of two images by keypoints and descriptors, and networks that compare patches."""

from typing import TYPE_CHECKING

from flowmatch._lazy import import_when_used

# Every name is imported when it is first used: keypoints, options and fits need no PyTorch.
if TYPE_CHECKING:
    from flowmatch.matching.compare import compare_all_patches, compare_patches, dense_descriptors
    from flowmatch.matching.describe import describe_keypoints
    from flowmatch.matching.external import load_external
    from flowmatch.matching.features import Features, Matches
    from flowmatch.matching.filter import filter_matches
    from flowmatch.matching.keypoints import Keypoints, detect_keypoints
    from flowmatch.matching.match import match_images
    from flowmatch.matching.networks import MODELS
    from flowmatch.matching.options import MatchOptions
    from flowmatch.matching.patches import extract_patches
    from flowmatch.matching.store import available, load, save_weights

__all__ = [
    "MODELS",
    "Features",
    "Keypoints",
    "MatchOptions",
    "Matches",
    "available",
    "compare_all_patches",
    "compare_patches",
    "dense_descriptors",
    "describe_keypoints",
    "detect_keypoints",
    "extract_patches",
    "filter_matches",
    "load",
    "load_external",
    "match_images",
    "save_weights",
]

_DEFINED_IN = {
    "compare": (
        "compare_all_patches",
        "compare_patches",
        "dense_descriptors",
    ),
    "describe": ("describe_keypoints",),
    "external": ("load_external",),
    "features": (
        "Features",
        "Matches",
    ),
    "filter": ("filter_matches",),
    "keypoints": (
        "Keypoints",
        "detect_keypoints",
    ),
    "match": ("match_images",),
    "networks": ("MODELS",),
    "options": ("MatchOptions",),
    "patches": ("extract_patches",),
    "store": (
        "available",
        "load",
        "save_weights",
    ),
}

__getattr__ = import_when_used(__name__, __all__, _DEFINED_IN)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
