"""Self-supervised learning of embeddings from videos, by tracking moving objects.

- `tracks`: moving objects, tracked by optical flow.
- `patches`: patches of tracks, and which tracks certainly show different objects.
- `losses`, `recipes`, `train`: training with a ranking loss and hard negatives.
- `evaluate`: retrieval of the same object in other frames, beside baselines without training.
"""

from flowmatch.selfsupervised.evaluate import (
    BASELINES,
    VideoScores,
    embed_patches,
    score_patches,
)
from flowmatch.selfsupervised.losses import ranking_loss
from flowmatch.selfsupervised.patches import (
    TrackedPatches,
    load_patches,
    mine_patches,
    save_patches,
)
from flowmatch.selfsupervised.recipes import RECIPES, VideoRecipe
from flowmatch.selfsupervised.tracks import Track, find_tracks
from flowmatch.selfsupervised.train import train_video

__all__ = [
    "BASELINES",
    "RECIPES",
    "Track",
    "TrackedPatches",
    "VideoRecipe",
    "VideoScores",
    "embed_patches",
    "find_tracks",
    "load_patches",
    "mine_patches",
    "ranking_loss",
    "save_patches",
    "score_patches",
    "train_video",
]
