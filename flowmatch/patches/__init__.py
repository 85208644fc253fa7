"""Patches of images: networks that describe and compare them, and matching by them."""

from flowmatch.patches.checkpoints import load, save_weights, shipped
from flowmatch.patches.compare import dense_descriptors, similarity, similarity_of_all
from flowmatch.patches.describe import describe
from flowmatch.patches.keypoints import Keypoints, detect, extract_patches
from flowmatch.patches.match import Matches, match_images
from flowmatch.patches.published import load_published

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
    "shipped",
    "similarity",
    "similarity_of_all",
]
