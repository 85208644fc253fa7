"""LightGlue and LoFTR: networks that match two images."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from flowmatch.devices import choose_device
from flowmatch.imaging import as_gray
from flowmatch.matching.features import (
    FeatureMatcher,
    Features,
    Matches,
    image_size,
    without_geometry,
)
from flowmatch.matching.keypoints import GRID_RADIUS, MAGNIFICATION, Keypoints
from flowmatch.matching.learned.weights import Source, kornia_features, load_network

LIGHTGLUE_FEATURES = ("disk", "aliked", "xfeat", "sift")
"""Features for which there are weights of LightGlue; ``"sift"`` stands for SIFT with RootSIFT."""
_LOFTR_SHIFT = 0.5  # LoFTR's centre of the upper left pixel is (0.5, 0.5)
_LOFTR_MIN_SIDE = 32  # of an image, pixels


class LightGlueMatcher:
    """LightGlue as a `FeatureMatcher`.

    Attributes:
        network: Network of kornia.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = network

    def match(self, first: Features, second: Features) -> Matches:
        """Match features whose sizes of images are known, the most confident match first."""
        points = first.keypoints, second.keypoints
        if min(len(first.keypoints.xy), len(second.keypoints.xy)) == 0:
            return without_geometry(*points, np.empty((0, 2), np.int64), np.empty(0, np.float32))
        with torch.no_grad():
            result = self.network({"image0": self._input(first), "image1": self._input(second)})
        matches, confidence = result["matches"][0].cpu(), result["scores"][0].float().cpu()
        order = confidence.argsort(descending=True, stable=True)
        return without_geometry(
            *points, matches[order].numpy(), np.asarray(1 - confidence[order].numpy())
        )

    def _input(self, features: Features) -> dict[str, Tensor]:
        if features.size is None:
            raise ValueError("LightGlue needs the sizes of the images, got none")
        device = next(self.network.parameters()).device
        points = features.keypoints
        # Keypoints may be up to half a pixel outside the image; LightGlue refuses those.
        xy = np.clip(points.xy, 0, np.asarray(features.size, np.float32))
        columns = {"keypoints": xy, "scales": points.scale, "oris": points.angle}
        result = {key: torch.from_numpy(values)[None].to(device) for key, values in columns.items()}
        size = torch.tensor([features.size], dtype=torch.float32, device=device)
        descriptors = torch.as_tensor(features.descriptors)[None].to(device)
        return result | {"descriptors": descriptors, "image_size": size}


class WholeImages:
    """Reader of the images for a matcher without keypoints, as a `FeatureExtractor`."""

    def extract(self, image: ArrayLike, keypoints: int) -> Features:
        """Return the gray image, and no keypoints."""
        gray = as_gray(image)
        none = _upright(np.empty((0, 2), np.float32), np.empty(0, np.float32))
        pixels = gray.astype(np.float32) / np.float32(255)
        return Features(none, torch.empty(0, 0), image_size(gray), np.asarray(pixels, np.float32))


class LoFTRMatcher:
    """LoFTR as a `FeatureMatcher` of whole images: each pair has keypoints of its own.

    Attributes:
        network: Network of kornia.
        keypoints: Maximum number of matches.
    """

    def __init__(self, network: nn.Module, keypoints: int) -> None:
        self.network: Any = network
        self.keypoints = keypoints

    def match(self, first: Features, second: Features) -> Matches:
        """Match the images of `WholeImages`, the most confident match first."""
        assert first.image is not None and second.image is not None
        if min(first.image.shape + second.image.shape) < _LOFTR_MIN_SIDE:
            none = first.keypoints
            empty = np.empty((0, 2), np.int64), np.empty(0, np.float32)
            return without_geometry(none, none, *empty)
        device = next(self.network.parameters()).device
        images = [torch.from_numpy(f.image)[None, None].to(device) for f in (first, second)]
        with torch.no_grad():
            result = self.network({"image0": images[0], "image1": images[1]})
        confidence = result["confidence"].float().cpu()
        order = confidence.argsort(descending=True, stable=True)[: self.keypoints]
        scores = confidence[order].numpy()
        points = [
            _upright(_full_size(result[key].float().cpu()[order].numpy(), features), scores)
            for key, features in (("keypoints0", first), ("keypoints1", second))
        ]
        kept = np.ones(len(scores), np.bool_)
        for keypoints, features in zip(points, (first, second), strict=True):
            if features.mask is not None:
                points_only = keypoints._replace(scale=np.zeros_like(keypoints.scale))
                kept &= points_only.inside(features.mask)
        points, scores = [keypoints.select(kept) for keypoints in points], scores[kept]
        matches = np.repeat(np.arange(len(scores))[:, None], 2, axis=1)
        return without_geometry(points[0], points[1], matches, 1 - scores)


def _full_size(xy: NDArray[np.float32], features: Features) -> NDArray[np.float32]:
    """Return LoFTR's positions, in a reduced image, as positions in the image of full size."""
    assert features.size is not None and features.image is not None
    H, W = features.image.shape
    return (xy * np.divide(features.size, (W, H)) - _LOFTR_SHIFT).astype(np.float32)


def _upright(xy: NDArray[np.float32], scores: NDArray[np.float32]) -> Keypoints:
    """Return keypoints without scale and orientation: upright patches of 32 pixels."""
    scale = np.full(len(xy), GRID_RADIUS / MAGNIFICATION, np.float32)
    return Keypoints(xy, scale, np.zeros(len(xy), np.float32), scores)


def load_lightglue(
    features: str,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
) -> FeatureMatcher:
    """Load LightGlue.

    Args:
        features: Features to match, one of `LIGHTGLUE_FEATURES`.
        weights: File of weights as their authors published them; None lets kornia download them.
        device: Device of the network; None takes a GPU if torch can use one.

    Raises:
        ImportError: Kornia is not installed, or too old.
        FileNotFoundError: The file does not exist.
        ValueError: There are no weights for the features, or the file is damaged or holds another
            network.
        ConnectionError: The weights cannot be downloaded.

    Reference:
        Lindenberger et al., LightGlue, ICCV 2023, in kornia's implementation; for XFeat,
        LighterGlue of Potje et al.
    """
    if features not in LIGHTGLUE_FEATURES:
        known = ", ".join(LIGHTGLUE_FEATURES)
        raise ValueError(f"LightGlue matches features of {known}, got {features!r}")
    file = None if weights is None else str(weights)
    return LightGlueMatcher(_lightglue(features, file, choose_device(device)))


@lru_cache(2)
def _lightglue(features: str, weights: str | None, device: torch.device) -> nn.Module:
    LightGlue = kornia_features("matcher lightglue").LightGlue
    settings = {k: v for k, v in LightGlue.features[features].items() if k != "weights"}
    source = Source(
        f"lightglue for {features}",
        lambda: LightGlue(None, **settings),
        lambda: LightGlue(features),
    )
    return load_network(source, weights, device)


def load_loftr(
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    *,
    keypoints: int = 8000,
) -> FeatureMatcher:
    """Load LoFTR.

    Args:
        weights: File of weights as their authors published them; None lets kornia download those
            for outdoor scenes.
        device: Device of the network; None takes a GPU if torch can use one.
        keypoints: Maximum number of matches.

    Raises:
        ImportError: Kornia is not installed, or too old.
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged or holds another network.
        ConnectionError: The weights cannot be downloaded.

    Reference:
        Sun et al., LoFTR: Detector-Free Local Feature Matching with Transformers, CVPR 2021, in
        kornia's implementation.
    """
    file = None if weights is None else str(weights)
    return LoFTRMatcher(_loftr(file, choose_device(device)), keypoints)


@lru_cache(2)
def _loftr(weights: str | None, device: torch.device) -> nn.Module:
    LoFTR = kornia_features("matcher loftr").LoFTR
    source = Source("loftr", lambda: LoFTR(None), lambda: LoFTR("outdoor"))
    return load_network(source, weights, device)
