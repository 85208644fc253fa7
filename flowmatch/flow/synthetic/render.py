"""Synthetic pairs painted by torch, a batch at once, on any device: what `plan.paint` does to one.

A worker packs plans into few tensors (`packing.pack`), and who trains paints them (`render_plans`).
Every layer of every picture is a rectangle of pixels; those of one depth, of the whole batch, are
looked up in the textures together, and laid over what is behind them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flowmatch.flow.synthetic.effects import SHUTTER_SAMPLES, Effects
from flowmatch.flow.synthetic.effects_torch import develop, mirror
from flowmatch.flow.synthetic.packing import MOST_BENDS, PackedPlans
from flowmatch.flow.synthetic.scene import FlowSample

FAR = 1e6  # pixels: outside every texture


class FlowBatch(NamedTuple):
    """Pairs and the truth about them."""

    first: Tensor  # [B, 3, H, W] uint8
    second: Tensor  # [B, 3, H, W] uint8
    flow: Tensor  # [B, 2, H, W] float32, pixels from the first frame to the second
    occluded: Tensor  # [B, H, W] bool, True where the second frame does not show the point

    def samples(self) -> list[FlowSample]:
        """Return the pairs as arrays, one by one."""
        parts = [part.movedim(1, -1) if part.ndim == 4 else part for part in self]
        arrays = [part.contiguous().cpu().numpy() for part in parts]
        return [FlowSample(*pair) for pair in zip(*arrays, strict=True)]


def render_plans(packed: PackedPlans, device: torch.device | str = "cpu") -> FlowBatch:
    """Paint a batch of plans.

    The same plans give the same bits each time on one device; each pair is what it would be alone.

    Args:
        packed: The plans.
        device: Where to paint; the pairs stay there.

    Example:
        >>> from flowmatch.flow.synthetic.packing import pack
        >>> from flowmatch.flow.synthetic.pairs import SyntheticFlow
        >>> pairs = SyntheticFlow(size=(64, 96))
        >>> batch = render_plans(pack([pairs.plan(0), pairs.plan(1)]))
        >>> batch.first.shape, batch.flow.shape
        (torch.Size([2, 3, 64, 96]), torch.Size([2, 2, 64, 96]))
    """
    B = len(packed.effects)
    images, owners = _paint(packed, torch.device(device))
    flow, occluded = _flow(packed, owners[:B], owners[B : 2 * B])
    frames = _expose(images, packed.effects)  # [B, 2, 3, H, W]
    stored = mirror(develop(frames, packed.effects), packed.flips)
    signs = flow.new_tensor([how.sign for how in packed.flips])
    return FlowBatch(
        stored[:, 0],
        stored[:, 1],
        mirror(flow * signs[:, :, None, None], packed.flips, colours=False),
        mirror(occluded, packed.flips, colours=False),
    )


def _paint(packed: PackedPlans, device: torch.device) -> tuple[Tensor, Tensor]:
    """Paint all views: images ``[V, H, W, 3]`` float32, and whose each pixel is ``[V, H, W]``."""
    H, W = packed.size
    V = int(packed.places[:, 0].max()) + 1  # the layer behind all others fills every view
    image = torch.zeros(V * H * W, 3, device=device)
    owner = torch.zeros(V * H * W, dtype=torch.int64, device=device)
    texels = packed.texels.to(device).view(torch.int32)[:, 0]  # a pixel is read at once
    areas = packed.places[:, 3] * packed.places[:, 4]
    places, poses, bends, counts = (
        table.to(device) for table in (packed.places, packed.poses, packed.bends, areas)
    )
    for start, stop, depth, bent, mirrored in packed.passes:
        part, total = slice(start, stop), int(areas[start:stop].sum())
        which = torch.repeat_interleave(counts[part], output_size=total)
        first = counts[part].cumsum(0) - counts[part]
        place = places[part][which]
        within = torch.arange(total, device=device) - first[which]
        x, y = place[:, 1] + within % place[:, 3], place[:, 2] + within // place[:, 3]
        points = torch.stack([x, y], 1).double()
        if bent:
            points -= _pull(points, bends[part][which])
        u, v = _look_up(poses[part][which], points)
        if mirrored:
            u, v = _fold(u, place[:, 7]), _fold(v, place[:, 6])
        found = _sample(texels, place[:, 5:], u, v)
        at = (place[:, 0] * H + y) * W + x
        alpha, before = found[:, 3:] / 255, image[at]
        image[at] = before + alpha * (found[:, :3] - before)
        owner[at] = torch.where(alpha[:, 0] > 0.5, depth, owner[at])
    return image.view(V, H, W, 3), owner.view(V, H, W)


def _pull(points: Tensor, bends: Tensor) -> Tensor:
    """Return `Bend.at` for points ``[P, 2]``, each with a bend of its own, ``[P, 3, 5]``."""
    square = (points[:, None] - bends[..., :2]).square().sum(2)
    weight = torch.exp(square / (-2 * bends[..., 4].square()))
    return (bends[..., 2:4] * weight[..., None]).sum(1)


def _move(matrices: Tensor, points: Tensor) -> Tensor:
    """Move points ``[P, 2]`` each by its matrix, and leave them homogeneous, ``[P, 3]``."""
    x, y = points[:, :1], points[:, 1:]
    return matrices[..., 0] * x + matrices[..., 1] * y + matrices[..., 2]


def _look_up(poses: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return where in its texture each point lies; behind the camera: outside of it."""
    moved = _move(poses, points)
    depth = moved[:, 2:]
    ends = torch.where(depth > 1e-9, moved[:, :2] / depth.clamp(min=1e-9), -FAR)
    u, v = ends.clamp(-FAR, FAR).unbind(1)
    return u, v


def _fold(x: Tensor, side: Tensor) -> Tensor:
    """Mirror what lies outside pixels 0 to `side` - 1, the border pixels repeated."""
    x = (x + 0.5).remainder(2 * side)
    return (torch.minimum(x, 2 * side - x) - 0.5).clamp(min=0).minimum(side - 1)


def _sample(texels: Tensor, texture: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Interpolate RGBA ``[P, 4]`` at (u, v) of textures ``[P, 3]``: start, height, width."""
    start, height, width = texture.unbind(1)
    # The border of the packed texture is pixel -1.
    u, v = (x.clamp(min=-1).minimum(side) + 1 for x, side in ((u, width), (v, height)))
    x, y = u.long().minimum(width), v.long().minimum(height)
    right, down = (u - x).float()[:, None], (v - y).float()[:, None]
    at = start + y * (width + 2) + x

    def read(at: Tensor) -> Tensor:
        return texels[at].view(torch.uint8).view(-1, 4).float()

    upper = torch.lerp(read(at), read(at + 1), right)
    at = at + width + 2
    return torch.lerp(upper, torch.lerp(read(at), read(at + 1), right), down)


def _flow(packed: PackedPlans, owner: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
    """Return the flow ``[B, 2, H, W]`` and what is hidden ``[B, H, W]``, as `Scene.flow`.

    Args:
        packed: The plans.
        owner: Whose each pixel of the first frame is, ``[B, H, W]``.
        later: The same of the second frame.
    """
    (H, W), device, B = packed.size, owner.device, len(owner)
    motions, bends = packed.motions.to(device), packed.layer_bends.to(device)
    layer = owner + motions.shape[1] * torch.arange(B, device=device)[:, None, None]
    y, x = torch.meshgrid(*(torch.arange(n, device=device) for n in (H, W)), indexing="ij")
    points = torch.stack([x, y], 2).double().expand(B, H, W, 2).reshape(-1, 2)
    layer = layer.reshape(-1)
    moved = _move(motions.view(-1, 3, 3)[layer], points)
    behind = (moved[:, 2] <= 1e-3).view(B, H, W)  # of the camera: nothing is there to be seen
    ends = moved[:, :2] / moved[:, 2:].clamp(min=1e-3)
    bends = bends.view(-1, MOST_BENDS, 5)
    bent = (bends[:, :, 2:4] != 0).any(2).any(1)[layer].nonzero()[:, 0]
    if len(bent):
        ends[bent] = _follow(ends[bent], bends[layer[bent]])
    flow = (ends - points).float().view(B, H, W, 2)
    return flow.permute(0, 3, 1, 2), behind | _covered(flow, owner, later)


def _follow(points: Tensor, bends: Tensor) -> Tensor:
    """Return `Bend.follow` for points ``[P, 2]``, each with a bend of its own."""
    ends = points
    for _ in range(25):
        ends = points + _pull(ends, bends)
    return ends


def _covered(flow: Tensor, owner: Tensor, later: Tensor) -> Tensor:
    """Return where a flow ``[B, H, W, 2]`` leaves the frame or leads to another layer."""
    B, H, W = owner.shape
    x = torch.arange(W, device=flow.device) + flow[..., 0]
    y = torch.arange(H, device=flow.device)[:, None] + flow[..., 1]
    outside = (x < -0.5) | (x >= W - 0.5) | (y < -0.5) | (y >= H - 0.5)
    x, y = (torch.where(outside, 0, c) for c in (x, y))
    covered = torch.ones_like(outside)  # a point is seen if one of the four pixels around shows it
    item = torch.arange(B, device=flow.device)[:, None, None]
    for xi in (x.floor(), x.ceil()):
        for yi in (y.floor(), y.ceil()):
            at = item, yi.clamp(0, H - 1).long(), xi.clamp(0, W - 1).long()
            covered &= later[at] != owner
    return outside | covered


def _expose(images: Tensor, effects: Sequence[Effects]) -> Tensor:
    """Average what is seen while the shutter is open; return all frames, ``[B, 2, 3, H, W]``."""
    B = len(effects)
    images = images.permute(0, 3, 1, 2)
    frames = torch.stack([images[:B], images[B : 2 * B]], 1)
    moving = [b for b, effect in enumerate(effects) if effect.shutter is not None]
    if moving:
        around = images[2 * B :].reshape(-1, 2, SHUTTER_SAMPLES - 1, *images.shape[1:])
        frames[moving] = (frames[moving] + around.sum(2)) / SHUTTER_SAMPLES
    return frames
