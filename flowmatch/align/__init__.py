"""Geometric matching: the affine and thin-plate transform between two pictures."""

from flowmatch.align.checkpoints import load, save_weights, shipped
from flowmatch.align.estimate import BASELINES, Alignment, align_images
from flowmatch.align.networks import MODELS, AlignNet

__all__ = [
    "BASELINES",
    "MODELS",
    "AlignNet",
    "Alignment",
    "align_images",
    "load",
    "save_weights",
    "shipped",
]
