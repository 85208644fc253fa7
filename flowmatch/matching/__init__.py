"""Matching of two images by keypoints and descriptors, and networks that compare patches."""

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
