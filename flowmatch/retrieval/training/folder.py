"""Training of a retrieval network on a folder of images without labels."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from flowmatch.devices import choose_device
from flowmatch.imaging import Image, resize_within
from flowmatch.io import read_image
from flowmatch.io._files import FilePath, message_of
from flowmatch.progress import ProgressCallback
from flowmatch.retrieval.index import Failure
from flowmatch.retrieval.network import RetrievalNet, initial_network
from flowmatch.retrieval.store import save_weights
from flowmatch.retrieval.training.mining import VerifiedPair, find_verified_pairs, object_labels
from flowmatch.retrieval.training.recipes import RECIPES
from flowmatch.retrieval.training.train import train_retrieval
from flowmatch.retrieval.update import list_images_below
from flowmatch.retrieval.verify import local_features
from flowmatch.training import StepReport

_SIDE = 400  # pixels; enough for verification, while all images fit into memory


class TrainingSet(NamedTuple):
    """Images of a folder, and pairs of them that show the same object.

    Attributes:
        images: Reduced images.
        pairs: Verified pairs, as indices into `images`.
        failures: Images that cannot be read.
    """

    images: list[Image]
    pairs: list[VerifiedPair]
    failures: list[Failure]

    @property
    def objects(self) -> int:
        """Number of objects that the images show."""
        return len(set(object_labels(len(self.images), self.pairs).tolist()))


def find_training_set(folder: FilePath, *, progress: ProgressCallback | None = None) -> TrainingSet:
    """Read the images in a folder and its subfolders, and find pairs of the same object.

    Args:
        folder: Folder of images, some of them of the same objects.
        progress: Called after each image, with the stages "keypoints" and "verifying".

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: There are fewer than two images, or too few keypoints in them.
    """
    images, failures, features = [], [], []
    entries = list_images_below(folder)
    for number, entry in enumerate(entries, 1):
        try:
            images.append(resize_within(read_image(Path(folder) / entry.name), _SIDE))
        except (ValueError, OSError) as error:
            failures.append(Failure(entry, message_of(error)))
        else:
            features.append(local_features(images[-1]))
        if progress:
            progress("keypoints", number, len(entries))
    return TrainingSet(images, find_verified_pairs(features, progress=progress), failures)


def train_from_folder(
    folder: FilePath,
    output: FilePath,
    *,
    recipe: str = "retrieval-small",
    resume: bool = False,
    device: str | torch.device | None = None,
    precision: str = "bfloat16",
    workers: int = 1,
    progress: ProgressCallback | None = None,
    on_pairs: Callable[[TrainingSet], None] | None = None,
    on_step: Callable[[int, StepReport], None] | None = None,
) -> RetrievalNet:
    """Find images of the same objects by matching keypoints, and train a network on them.

    No labels are needed. The network starts with the backbone of the alignment weights.

    Args:
        folder: Folder of images, some of them of the same objects.
        output: Folder for the checkpoints and for the weights, ``RECIPE.safetensors``.
        recipe: Name in `RECIPES`.
        resume: Whether to continue from the checkpoints.
        device: Device of the training; None takes a GPU if torch can use one.
        precision: Precision of the convolutions, ``"bfloat16"`` or ``"float32"``.
        workers: Number of processes that prepare samples.
        progress: Called after each image while pairs are searched.
        on_pairs: Function called once with the images and pairs, before training.
        on_step: Function called after each step with the number of finished rounds and a report.

    Returns:
        The trained network, in eval mode.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The recipe is unknown, or there are no pairs or no negatives to learn from.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    target = str(choose_device(device))
    training_set = find_training_set(folder, progress=progress)
    if on_pairs:
        on_pairs(training_set)
    output = Path(output)
    network = train_retrieval(
        RECIPES[recipe],
        initial_network(),
        training_set.images,
        training_set.pairs,
        output / f"{recipe}.pt",
        resume=resume,
        device=target,
        precision=precision,
        workers=workers,
        on_step=on_step,
    )
    save_weights(output / f"{recipe}.safetensors", network, "retrieval", network.arguments)
    return network
