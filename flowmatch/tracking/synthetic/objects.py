"""The true box and the visibility of a layer of a rendered scene."""

import numpy as np
from numpy.typing import NDArray

from flowmatch._opencv import cv2
from flowmatch.flow.synthetic import Layer, Scene
from flowmatch.tracking.boxes import Boxes

_OPAQUE = 127  # alpha above which a pixel belongs to the object, as in `Scene.render`


def object_box(scene: Scene, index: int, time: float) -> Boxes:
    """Return the box of a whole layer, also of its hidden parts and those outside the frame.

    Args:
        scene: The scene.
        index: Index of the layer, which has an alpha.
        time: Time of the frame.

    Returns:
        ``[4]``: x, y, width, height, pixels.
    """
    layer = scene.layers[index]
    points = _move(_outline(layer), scene, index, time)
    low, high = points.min(1), points.max(1) + 1  # (0, 0) is the centre of a layer's pixel
    return np.array([*low, *(high - low)], np.float64)


def visible_share(scene: Scene, index: int, time: float, layers: NDArray[np.int16]) -> float:
    """Return the share of a layer's pixels that can be seen, about 0 to 1.

    Args:
        scene: The scene.
        index: Index of the layer, which has an alpha.
        time: Time of the frame.
        layers: Visible layer at each pixel of the frame, `Rendering.layer`.
    """
    layer = scene.layers[index]
    if layer.alpha is None:
        raise ValueError(f"layer {index} fills the frame and is no object")
    centre = np.array(layer.alpha.shape[::-1]) / 2
    corners = np.stack([centre, centre + (1, 0), centre + (0, 1)], 1)
    a, b, c = _move(corners, scene, index, time).T
    scale = abs((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0])  # frame pixels for one of alpha
    area = scale * np.count_nonzero(layer.alpha > _OPAQUE)
    return float(np.count_nonzero(layers == index) / max(area, 1.0))


def _outline(layer: Layer) -> NDArray[np.float64]:
    """Return the outline of the opaque part of a texture, ``[2, N]``."""
    if layer.alpha is None:
        raise ValueError("a layer without alpha fills the frame and is no object")
    mask = (layer.alpha > _OPAQUE).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return np.array(mask.shape[::-1], np.float64)[:, None] / 2
    return np.concatenate([contour[:, 0] for contour in contours]).T.astype(np.float64)


def _move(
    points: NDArray[np.float64], scene: Scene, index: int, time: float
) -> NDArray[np.float64]:
    """Return where points ``[2, N]`` of a texture are in the frame."""
    moved = scene.pose(index, time) @ np.concatenate([points, np.ones((1, points.shape[1]))])
    ends: NDArray[np.float64] = moved[:2] / np.maximum(moved[2], 1e-3)
    deformation = scene.layers[index].deformation
    return deformation.apply(ends, time) if deformation else ends
