"""Learning from videos without labels: what moves is followed, and is the same thing.

- `tracks`: what moves against its background, followed by optical flow.
- `patches`: patches of tracks; which certainly show two things.
- `losses`, `recipes`, `train`: the ranking loss, with hard negatives after a while.
- `evaluate`: finding the same thing in other frames, beside baselines that learn nothing.
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
