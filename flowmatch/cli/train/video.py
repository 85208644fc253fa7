"""``flowmatch train video``: an embedding of moving objects, from videos without labels."""

from typing import Annotated

from flowmatch.cli._messages import messages
from flowmatch.cli._options import (
    DeviceName,
    FrameRange,
    OutputFolder,
    Resume,
    TrainingPrecision,
    Workers,
)
from flowmatch.cli._run import check_new, find_recipe, recipe_option, reporter, resumable
from flowmatch.cli._video import Clips, FlowMethod, Start, open_clips, track_patches
from flowmatch.devices import choose_device
from flowmatch.flow.store import STORE
from flowmatch.metric_learning.fit import read_backbone
from flowmatch.metric_learning.store import save_weights
from flowmatch.selfsupervised import RECIPES, load_patches, save_patches, train_video
from flowmatch.training import is_first_process

EXAMPLES = (
    "flowmatch train video street.mp4 -o runs --frames 0:2000",
    "flowmatch train video street.mp4 park.mp4 -o runs --flow dis --resume",
)


def command(
    clips: Clips,
    output: OutputFolder,
    frames: FrameRange = "0:",
    flow: FlowMethod = "network",
    recipe: Annotated[str, recipe_option(RECIPES)] = "video-small",
    start: Start = None,
    resume: Resume = False,
    workers: Workers = 0,
    device: DeviceName = None,
    precision: TrainingPrecision = "bfloat16",
) -> None:
    """Train an embedding of moving objects, without labels.

    Objects are tracked by optical flow, and the patches of a track are positive pairs. Training may
    be stopped at any time; --resume continues.
    """
    chosen = find_recipe(RECIPES, recipe)
    checkpoint, weights = output / f"{recipe}.pt", output / f"{recipe}.safetensors"
    patches_file = output / f"{recipe}.patches.safetensors"
    check_new(output, checkpoint, resume)
    videos = open_clips(clips, frames)
    digests = (video.digest() for video in videos)
    made_from = " ".join([flow, STORE.digest(), str(chosen.mined), *digests])
    output.mkdir(parents=True, exist_ok=True)
    with resumable(checkpoint, patches_file):
        if resume and patches_file.exists():
            patches = load_patches(patches_file, made_from)
        else:
            patches = track_patches(videos, chosen, flow, device, stride=3)
            save_patches(patches_file, patches, made_from)
        messages.print(f"{len(patches)} patches of {patches.tracks} tracks")
        network = train_video(
            chosen,
            patches,
            checkpoint,
            start=read_backbone(start) if start else None,
            resume=resume,
            device=str(choose_device(device)),
            precision=precision,
            workers=workers,
            on_step=reporter(),
        )
    if is_first_process():
        save_weights(weights, network)
        messages.print(f"weights in {weights}")
