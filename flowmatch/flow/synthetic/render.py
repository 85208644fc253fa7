"""Rendering of synthetic pairs by torch, in batches and on any device.

`plan.render_pair` renders one pair by NumPy and OpenCV; it is the reference for the tests of this
renderer. This one is for training on a GPU (``--render device``), which learns from pairs faster
than CPU cores render them: workers only sample plans and pack them into a few tensors
(`packing.pack_plans`), and the training process renders whole batches of them (`render_plans`).

Every layer of every view is a rectangle of pixels; those of one depth, of the whole batch, are
looked up in the textures together, and blended over the layers behind them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flowmatch.flow.synthetic.effects import SHUTTER_SAMPLES, Effects
from flowmatch.flow.synthetic.effects_torch import apply_effects_to_batch, apply_flips
from flowmatch.flow.synthetic.packing import MAX_CENTRES, PackedPlans
from flowmatch.flow.synthetic.scene import FlowSample

FAR = 1e6
"""A coordinate outside every texture, in pixels."""


class FlowBatch(NamedTuple):
    """A batch of pairs and their true flow.

    Attributes:
        first: First frames, ``[B, 3, H, W]`` uint8.
        second: Second frames, ``[B, 3, H, W]`` uint8.
        flow: Flow from the first frames to the second, ``[B, 2, H, W]`` float32, pixels.
        occluded: Pixels of the first frames that are hidden in the second, ``[B, H, W]`` bool.
    """

    first: Tensor
    second: Tensor
    flow: Tensor
    occluded: Tensor

    def samples(self) -> list[FlowSample]:
        """Return the pairs as arrays, one by one."""
        parts = [part.movedim(1, -1) if part.ndim == 4 else part for part in self]
        arrays = [part.contiguous().cpu().numpy() for part in parts]
        return [FlowSample(*pair) for pair in zip(*arrays, strict=True)]


def render_plans(packed: PackedPlans, device: torch.device | str = "cpu") -> FlowBatch:
    """Render a batch of plans.

    On one device, the same plans give the same bits each time; a pair does not depend on the others
    of its batch.

    Args:
        packed: The plans.
        device: Device to render on; the pairs stay there.

    Example:
        >>> from flowmatch.flow.synthetic.packing import pack_plans
        >>> from flowmatch.flow.synthetic.pairs import SyntheticFlow
        >>> pairs = SyntheticFlow(size=(64, 96))
        >>> batch = render_plans(pack_plans([pairs.plan(0), pairs.plan(1)]))
        >>> batch.first.shape, batch.flow.shape
        (torch.Size([2, 3, 64, 96]), torch.Size([2, 2, 64, 96]))
    """
    B = len(packed.effects)
    images, layers = _render_views(packed, torch.device(device))
    flow, occluded = _flow(packed, layers[:B], layers[B : 2 * B])
    frames = _blur_motion(images, packed.effects)  # [B, 2, 3, H, W]
    stored = apply_flips(apply_effects_to_batch(frames, packed.effects), packed.flips)
    signs = flow.new_tensor([flip.sign for flip in packed.flips])
    return FlowBatch(
        stored[:, 0],
        stored[:, 1],
        apply_flips(flow * signs[:, :, None, None], packed.flips, colours=False),
        apply_flips(occluded, packed.flips, colours=False),
    )


# ---- Views -------------------------------------------------------------------------------------


def _render_views(packed: PackedPlans, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return all images, ``[V, H, W, 3]`` float32, and the visible layers, ``[V, H, W]``."""
    H, W = packed.size
    V = int(packed.rectangles[:, 0].max()) + 1  # the backmost layer fills every view
    image = torch.zeros(V * H * W, 3, device=device)
    visible = torch.zeros(V * H * W, dtype=torch.int64, device=device)
    texels = packed.texels.to(device).view(torch.int32)[:, 0]  # a pixel is read at once
    areas = packed.rectangles[:, 3] * packed.rectangles[:, 4]
    rectangles, poses, deformations, counts = (
        table.to(device) for table in (packed.rectangles, packed.poses, packed.deformations, areas)
    )
    for start, stop, depth, deformed, mirrored in packed.passes:
        part, total = slice(start, stop), int(areas[start:stop].sum())
        owner = torch.repeat_interleave(counts[part], output_size=total)  # rectangle of each pixel
        first = counts[part].cumsum(0) - counts[part]
        row = rectangles[part][owner]
        within = torch.arange(total, device=device) - first[owner]
        x, y = row[:, 1] + within % row[:, 3], row[:, 2] + within // row[:, 3]
        points = torch.stack([x, y], 1).double()
        if deformed:
            points -= _displacement(points, deformations[part][owner])
        u, v = _texture_coordinates(poses[part][owner], points)
        if mirrored:
            u, v = _reflect(u, row[:, 7]), _reflect(v, row[:, 6])
        rgba = _interpolate(texels, row[:, 5:], u, v)
        pixel = (row[:, 0] * H + y) * W + x
        alpha, behind = rgba[:, 3:] / 255, image[pixel]
        image[pixel] = behind + alpha * (rgba[:, :3] - behind)
        visible[pixel] = torch.where(alpha[:, 0] > 0.5, depth, visible[pixel])
    return image.view(V, H, W, 3), visible.view(V, H, W)


def _displacement(points: Tensor, deformations: Tensor) -> Tensor:
    """Return `Deformation.at` for points ``[P, 2]``, each with its own row ``[P, 3, 5]``."""
    square = (points[:, None] - deformations[..., :2]).square().sum(2)
    weight = torch.exp(square / (-2 * deformations[..., 4].square()))
    return (deformations[..., 2:4] * weight[..., None]).sum(1)


def _transform(matrices: Tensor, points: Tensor) -> Tensor:
    """Transform points ``[P, 2]``, each by its own matrix, to homogeneous points ``[P, 3]``."""
    x, y = points[:, :1], points[:, 1:]
    return matrices[..., 0] * x + matrices[..., 1] * y + matrices[..., 2]


def _texture_coordinates(poses: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return each point's place in its texture; outside of it if it is behind the camera."""
    moved = _transform(poses, points)
    depth = moved[:, 2:]
    ends = torch.where(depth > 1e-9, moved[:, :2] / depth.clamp(min=1e-9), -FAR)
    u, v = ends.clamp(-FAR, FAR).unbind(1)
    return u, v


def _reflect(x: Tensor, side: Tensor) -> Tensor:
    """Mirror coordinates outside 0 to `side` - 1, with the border pixels repeated."""
    x = (x + 0.5).remainder(2 * side)
    return (torch.minimum(x, 2 * side - x) - 0.5).clamp(min=0).minimum(side - 1)


def _interpolate(texels: Tensor, texture: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Interpolate RGBA ``[P, 4]`` at (u, v) of textures ``[P, 3]``: start, height, width."""
    start, height, width = texture.unbind(1)
    # The border of the packed texture is pixel -1.
    u, v = (x.clamp(min=-1).minimum(side) + 1 for x, side in ((u, width), (v, height)))
    x, y = u.long().minimum(width), v.long().minimum(height)
    right, down = (u - x).float()[:, None], (v - y).float()[:, None]
    index = start + y * (width + 2) + x

    def read(index: Tensor) -> Tensor:
        return texels[index].view(torch.uint8).view(-1, 4).float()

    upper = torch.lerp(read(index), read(index + 1), right)
    index = index + width + 2
    return torch.lerp(upper, torch.lerp(read(index), read(index + 1), right), down)


def _blur_motion(images: Tensor, effects: Sequence[Effects]) -> Tensor:
    """Average the views within each exposure time; return all frames, ``[B, 2, 3, H, W]``."""
    B = len(effects)
    images = images.permute(0, 3, 1, 2)
    frames = torch.stack([images[:B], images[B : 2 * B]], 1)
    moving = [b for b, effect in enumerate(effects) if effect.shutter is not None]
    if moving:
        others = images[2 * B :].reshape(-1, 2, SHUTTER_SAMPLES - 1, *images.shape[1:])
        frames[moving] = (frames[moving] + others.sum(2)) / SHUTTER_SAMPLES
    return frames


# ---- Flow --------------------------------------------------------------------------------------


def _flow(packed: PackedPlans, layers: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
    """Return the flow ``[B, 2, H, W]`` and the occluded pixels ``[B, H, W]``, like `Scene.flow`.

    Args:
        packed: The plans.
        layers: Visible layer at each pixel of the first frames, ``[B, H, W]``.
        later: The same of the second frames.
    """
    (H, W), device, B = packed.size, layers.device, len(layers)
    motions, deformations = packed.motions.to(device), packed.layer_deformations.to(device)
    layer = layers + motions.shape[1] * torch.arange(B, device=device)[:, None, None]
    y, x = torch.meshgrid(*(torch.arange(n, device=device) for n in (H, W)), indexing="ij")
    points = torch.stack([x, y], 2).double().expand(B, H, W, 2).reshape(-1, 2)
    layer = layer.reshape(-1)
    moved = _transform(motions.view(-1, 3, 3)[layer], points)
    behind = (moved[:, 2] <= 1e-3).view(B, H, W)  # behind the camera, so invisible
    ends = moved[:, :2] / moved[:, 2:].clamp(min=1e-3)
    deformations = deformations.view(-1, MAX_CENTRES, 5)
    deformed = (deformations[:, :, 2:4] != 0).any(2).any(1)[layer].nonzero()[:, 0]
    if len(deformed):
        ends[deformed] = _deform(ends[deformed], deformations[layer[deformed]])
    flow = (ends - points).float().view(B, H, W, 2)
    return flow.permute(0, 3, 1, 2), behind | _occluded(flow, layers, later)


def _deform(points: Tensor, deformations: Tensor) -> Tensor:
    """Return `Deformation.apply` for points ``[P, 2]``, each with its own row ``[P, 3, 5]``."""
    ends = points
    for _ in range(25):
        ends = points + _displacement(ends, deformations)
    return ends


def _occluded(flow: Tensor, layers: Tensor, later: Tensor) -> Tensor:
    """Return where a flow ``[B, H, W, 2]`` leaves the frame or leads to another layer."""
    B, H, W = layers.shape
    x = torch.arange(W, device=flow.device) + flow[..., 0]
    y = torch.arange(H, device=flow.device)[:, None] + flow[..., 1]
    outside = (x < -0.5) | (x >= W - 0.5) | (y < -0.5) | (y >= H - 0.5)
    x, y = (torch.where(outside, 0, c) for c in (x, y))
    covered = torch.ones_like(outside)  # unless one of the four pixels around shows the layer
    item = torch.arange(B, device=flow.device)[:, None, None]
    for xi in (x.floor(), x.ceil()):
        for yi in (y.floor(), y.ceil()):
            pixel = item, yi.clamp(0, H - 1).long(), xi.clamp(0, W - 1).long()
            covered &= later[pixel] != layers
    return outside | covered
