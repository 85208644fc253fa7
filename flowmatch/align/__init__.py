"""Image alignment: the affine and thin-plate transform between two images."""

from flowmatch.align.estimate import BASELINES, Alignment, align_images
from flowmatch.align.files import read_alignment, write_alignment
from flowmatch.align.networks import MODELS, AlignNet
from flowmatch.align.store import available, load, save_weights

__all__ = [
    "BASELINES",
    "MODELS",
    "AlignNet",
    "Alignment",
    "align_images",
    "available",
    "load",
    "read_alignment",
    "save_weights",
    "write_alignment",
]
