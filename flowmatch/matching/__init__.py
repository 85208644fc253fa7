"""Patches of images: networks that describe and compare them, and matching by them."""

from flowmatch.matching.compare import dense_descriptors, similarity, similarity_of_all
from flowmatch.matching.describe import describe
from flowmatch.matching.external import load_published
from flowmatch.matching.keypoints import Keypoints, detect, extract_patches
from flowmatch.matching.match import Matches, match_images
from flowmatch.matching.store import available, load, save_weights

__all__ = [
    "Keypoints",
    "Matches",
    "dense_descriptors",
    "describe",
    "detect",
    "extract_patches",
    "load",
    "load_published",
    "match_images",
    "save_weights",
    "available",
    "similarity",
    "similarity_of_all",
]
