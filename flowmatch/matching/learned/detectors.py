"""DISK, ALIKED, XFeat and Key.Net: networks that detect keypoints in whole images."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from flowmatch.devices import choose_device
from flowmatch.imaging import as_gray, as_rgb
from flowmatch.matching.features import FeatureExtractor, Features, image_size
from flowmatch.matching.keypoints import (
    GRID_RADIUS,
    MAGNIFICATION,
    KeypointDetector,
    Keypoints,
)
from flowmatch.matching.learned.weights import Source, kornia_features, load_network

_MIN_SIDE = 32  # of an image, pixels: smaller ones have no keypoints
_ALIKED = "aliked-n16"  # the version that LightGlue's weights are for


class _Detection(NamedTuple):
    """Result of a network on one image.

    Attributes:
        xy: ``[N, 2]``, pixels; the centre of the upper left pixel is (0, 0).
        scores: ``[N]``.
        descriptors: ``[N, D]``, of unit length.
    """

    xy: Tensor
    scores: Tensor
    descriptors: Tensor


class LearnedFeatures:
    """Network that detects and describes keypoints in one pass, as a `FeatureExtractor`.

    The keypoints have neither scale nor orientation: they are upright, and their scale makes
    patches of 32 pixels.

    Attributes:
        name: Name of the features, by which a matcher chooses its weights.
        network: Network of kornia.
        dim: Length of a descriptor.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        dim: int,
        detect: Callable[[Any, Tensor, int], _Detection],
    ) -> None:
        self.name, self.network, self.dim, self._detect = name, network, dim, detect

    def extract(self, image: ArrayLike, keypoints: int) -> Features:
        """Detect and describe the keypoints with the best scores.

        Args:
            image: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
            keypoints: Maximum number of keypoints.
        """
        pixels = as_rgb(image)
        size = image_size(pixels)
        if min(size) < _MIN_SIDE:
            empty = np.empty(0, np.float32)
            points = Keypoints(empty.reshape(0, 2), empty, empty, empty)
            return Features(points, torch.empty(0, self.dim), size)
        with torch.no_grad():
            found = self._detect(self.network, _as_tensor(pixels, self.network), keypoints)
        order = found.scores.argsort(descending=True, stable=True)[:keypoints]
        xy, scores = (_as_array(values[order]) for values in found[:2])
        scale = np.full(len(xy), GRID_RADIUS / MAGNIFICATION, np.float32)
        points = Keypoints(xy, scale, np.zeros(len(xy), np.float32), scores)
        return Features(points, found.descriptors[order].float().clone(), size)


class KeyNetDetector:
    """Key.Net as a `KeypointDetector`: corners with a scale, oriented by their gradients."""

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = network

    def detect(self, image: ArrayLike, keypoints: int) -> Keypoints:
        """Detect the keypoints with the best scores.

        Args:
            image: uint8, RGB ``[H, W, 3]`` or gray ``[H, W]``.
            keypoints: Maximum number of keypoints.
        """
        gray = as_gray(image)
        frames, scores = np.empty((0, 2, 3), np.float32), np.empty(0, np.float32)
        if min(gray.shape) >= _MIN_SIDE:
            self.network.num_features = keypoints
            with torch.no_grad():
                lafs, responses = self.network(_as_tensor(gray[..., None], self.network))
            frames, scores = _as_array(lafs[0]), _as_array(responses[0])
            kept = scores > 0  # the others fill up the number of keypoints
            frames, scores = frames[kept], scores[kept]
        # A frame takes the unit circle to an ellipse that fills the patch.
        linear = frames[:, :, :2]
        scale = np.sqrt(np.abs(np.linalg.det(linear))) / MAGNIFICATION
        angle = np.arctan2(linear[:, 1, 0], linear[:, 0, 0])
        return Keypoints(
            np.ascontiguousarray(frames[:, :, 2]),
            scale.astype(np.float32),
            angle.astype(np.float32),
            scores,
        )


def load_detector(
    name: str, weights: str | Path | None = None, device: str | torch.device | None = None
) -> FeatureExtractor | KeypointDetector:
    """Load a detector of kornia.

    Args:
        name: ``"disk"``, ``"aliked"``, ``"xfeat"``: keypoints with descriptors; ``"keynet"``:
            keypoints.
        weights: File of weights as their authors published them; None lets kornia download them.
        device: Device of the network; None takes a GPU if torch can use one.

    Raises:
        ImportError: Kornia is not installed, or too old.
        FileNotFoundError: The file does not exist.
        ValueError: The name is unknown, or the file is damaged or holds another network.
        ConnectionError: The weights cannot be downloaded.

    Reference:
        Tyszkiewicz et al., DISK, NeurIPS 2020. Zhao et al., ALIKED, TIM 2023. Potje et al., XFeat,
        CVPR 2024. Barroso-Laguna et al., Key.Net, ICCV 2019. All in kornia's implementation.
    """
    if name not in _LOADERS:
        raise ValueError(f"a detector must be one of {', '.join(_LOADERS)}, got {name!r}")
    return _loaded(name, None if weights is None else str(weights), choose_device(device))


@lru_cache(2)
def _loaded(
    name: str, weights: str | None, device: torch.device
) -> FeatureExtractor | KeypointDetector:
    return _LOADERS[name](weights, device)


def _load_disk(weights: str | None, device: torch.device) -> LearnedFeatures:
    K = kornia_features("detector disk")
    network = load_network(Source("disk", K.DISK, K.DISK.from_pretrained), weights, device)
    return LearnedFeatures("disk", network, 128, _detect_disk)


def _detect_disk(network: Any, image: Tensor, keypoints: int) -> _Detection:
    result = network(image, n=keypoints, pad_if_not_divisible=True)[0]
    return _Detection(result.keypoints, result.detection_scores, result.descriptors)


def _load_aliked(weights: str | None, device: torch.device) -> LearnedFeatures:
    K = kornia_features("detector aliked")
    source = Source("aliked", lambda: K.ALIKED(_ALIKED), lambda: K.ALIKED.from_pretrained(_ALIKED))
    return LearnedFeatures("aliked", load_network(source, weights, device), 128, _detect_aliked)


def _detect_aliked(network: Any, image: Tensor, keypoints: int) -> _Detection:
    result = network(image)[0]
    return _Detection(result.keypoints, result.keypoint_scores, result.descriptors)


def _load_xfeat(weights: str | None, device: torch.device) -> LearnedFeatures:
    K = kornia_features("detector xfeat")
    source = Source("xfeat", K.XFeat, K.XFeat.from_pretrained, inner="net")
    return LearnedFeatures("xfeat", load_network(source, weights, device), 64, _detect_xfeat)


def _detect_xfeat(network: Any, image: Tensor, keypoints: int) -> _Detection:
    result = network.detectAndCompute(image, top_k=keypoints)[0]
    # XFeat reduces the sides to multiples of 32 and scales positions around the centre of the
    # first pixel instead of its corner.
    factors = image.new_tensor([side / (side // 32 * 32) for side in image.shape[:1:-1]])
    xy = result["keypoints"] + (factors - 1) / 2
    return _Detection(xy, result["scores"], result["descriptors"])


def _load_keynet(weights: str | None, device: torch.device) -> KeyNetDetector:
    K = kornia_features("detector keynet")

    def build(pretrained: bool) -> Any:
        return K.KeyNetDetector(pretrained, ori_module=K.LAFOrienter())

    source = Source("keynet", lambda: build(False), lambda: build(True), inner="model")
    return KeyNetDetector(load_network(source, weights, device))


_LOADERS: dict[str, Callable[[str | None, torch.device], FeatureExtractor | KeypointDetector]] = {
    "disk": _load_disk,
    "aliked": _load_aliked,
    "xfeat": _load_xfeat,
    "keynet": _load_keynet,
}


def _as_tensor(pixels: NDArray[np.uint8], network: nn.Module) -> Tensor:
    """Return an image ``[H, W, C]`` as ``[1, C, H, W]`` in [0, 1], where the network is."""
    device = next(network.parameters()).device
    return torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None].float() / 255


def _as_array(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.detach().cpu().float().numpy(), np.float32)
