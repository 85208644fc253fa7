"""Matching of two images: keypoints, descriptors, nearest neighbours and a robust fit."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from flowmatch.imaging import as_rgb
from flowmatch.io.masked import MaskedImage, apply_mask
from flowmatch.matching._guided import guided_matches
from flowmatch.matching.features import FeatureMatcher, Features, Matches, sizes_of
from flowmatch.matching.filter import filter_matches
from flowmatch.matching.fit import fit_geometry
from flowmatch.matching.methods import NearestMatcher, extract_features, load_methods
from flowmatch.matching.networks import DescriptorNetwork
from flowmatch.matching.options import MatchOptions

_DEFAULTS = MatchOptions()


def match_images(
    first: ArrayLike,
    second: ArrayLike,
    *,
    masks: Sequence[ArrayLike | None] = (None, None),
    model: DescriptorNetwork | nn.Module | str | Path = "default",
    device: str | torch.device | None = None,
    options: MatchOptions = _DEFAULTS,
) -> Matches:
    """Find points of one image in another.

    Args:
        first: First image, uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
        second: Second image, of any size.
        masks: Masks of both images, bool or uint8 ``[H, W]``, or None: what is black is ignored.
        model: Descriptor: ``"default"`` or another name of shipped weights; ``"rootsift"``,
            ``"sift"``, ``"orb"``; a file of weights; or a network. Detectors that describe their
            keypoints, and LoFTR, take none.
        device: Device of the network; None takes a GPU if torch can use one. A network given as a
            module stays on its device then.
        options: Detector, matcher, filter and geometric model.

    Returns:
        `Matches`, by increasing distance, or by decreasing score if there is a filter. Possibly no
        match at all, and then no matrix.

    Raises:
        ValueError: An image, a mask or the model is invalid.
        FileNotFoundError: A file of weights does not exist.
        ImportError: The detector or the matcher needs kornia, which is not installed.
        ConnectionError: Its weights cannot be downloaded.

    Example:
        >>> texture = np.random.default_rng(0).integers(0, 255, (30, 40), np.uint8)
        >>> image = texture.repeat(8, axis=0).repeat(8, axis=1)
        >>> matches = match_images(image[:, :280], image[:, 40:], model="rootsift")
        >>> float(matches.matrix[0, 2].round(1))  # 40 pixels to the left
        -40.0

    Reference:
        The ratio test: Lowe, IJCV 2004. MAGSAC++: Barath et al., CVPR 2020, in OpenCV's
        implementation.
    """
    extractor, matcher = load_methods(model, device, options)
    pictures = [
        _masked(image, mask, name)
        for image, mask, name in zip((first, second), masks, ("first", "second"), strict=True)
    ]
    a, b = (extract_features(image, extractor, options, mask) for image, mask in pictures)
    return match_described((a, b), options, (first, second), device, matcher)


def _masked(
    image: ArrayLike, mask: ArrayLike | None, name: str
) -> tuple[ArrayLike, NDArray[np.uint8] | None]:
    if mask is None:
        return image, None
    picture = MaskedImage(as_rgb(image, f"the {name} image"), None)
    return apply_mask(picture, mask, name=f"the {name} mask", of=f"the {name} image")


def match_described(
    features: tuple[Features, Features],
    options: MatchOptions,
    images: tuple[ArrayLike, ArrayLike] | None = None,
    device: str | torch.device | None = None,
    matcher: FeatureMatcher | None = None,
) -> Matches:
    """Match two images whose features are known: matcher, filter, robust fit.

    Args:
        features: Features of each image, by the same descriptor.
        options: Options of `match_images`.
        images: Both images; required by a filter network only.
        device: Device of a filter network that is given by name.
        matcher: The loaded matcher; None takes nearest neighbours.

    Returns:
        `Matches`.

    Raises:
        ValueError: The filter network is invalid, or it lacks the images.
    """
    first, second = features
    matcher = matcher or NearestMatcher(options.ratio, options.mutual)
    keypoints0, keypoints1, matches, distances, *_ = matcher.match(first, second)
    scores = None
    if options.filter_model is not None:
        if images is None:
            raise ValueError("a filter network needs the images, got none")
        matches, distances, scores = filter_matches(
            images,
            (keypoints0, keypoints1),
            matches,
            distances,
            model=options.filter_model,
            device=device,
            min_score=options.min_score,
            magnification=options.magnification,
        )
    fit = partial(
        fit_geometry,
        keypoints0,
        keypoints1,
        geometry=options.geometry,
        threshold=options.threshold,
        intrinsics=options.intrinsics,
        sizes=sizes_of(first, second),
    )
    result = fit(matches, distances, scores=scores)
    descriptors_decide = options.matcher == "nearest" and scores is None
    if not (options.guided and descriptors_decide and result.trusted):
        return result
    more = guided_matches(first, second, result, threshold=options.threshold)
    refined = fit(*_with_guided(result, *more))
    return refined if refined.inliers.sum() >= result.inliers.sum() else result


def _with_guided(
    result: Matches, matches: NDArray[np.int64], distances: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Add guided matches; outliers of their keypoints give way."""
    taken = [np.isin(result.matches[:, side], matches[:, side]) for side in (0, 1)]
    kept = result.inliers | ~np.logical_or(*taken)
    every = np.concatenate([result.distances[kept], distances])
    order = np.argsort(every, kind="stable")
    return np.concatenate([result.matches[kept], matches])[order], every[order]
