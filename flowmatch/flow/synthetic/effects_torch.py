"""Photometric effects by torch, for a batch of pairs: the counterpart of `effects.apply_effects`.

Frames are ``[B, 2, 3, H, W]``: the first and the second frame of each pair.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowmatch.flow._extras import kornia
from flowmatch.flow.synthetic.effects import OCTAVES, Effects, Exposure, Fog, Octaves, Shade
from flowmatch.flow.synthetic.plan import Flip

DEFOCUS_SIDE = 19
"""Side of the blur's kernel: four of the largest standard deviations to each side, in pixels."""


def apply_effects_to_batch(frames: Tensor, effects: Sequence[Effects]) -> Tensor:
    """Apply all effects but the motion blur to a batch of pairs.

    Args:
        frames: Frames as rendered, ``[B, 2, 3, H, W]`` float32, 0..255.
        effects: Effects of each pair.

    Returns:
        The frames as a camera stores them, uint8.
    """
    frames = frames.clone()
    for pair, effect in zip(frames, effects, strict=True):
        if effect.fog:
            _apply_fog(pair, effect.fog)
        if effect.shade:
            _apply_shade(pair, effect.shade)
    _defocus(frames, effects)
    stored = _apply_films(frames, effects)
    _compress(stored, effects)
    return stored


def apply_flips(parts: Tensor, flips: Sequence[Flip], colours: bool = True) -> Tensor:
    """Mirror ``[B, ..., H, W]``; with `colours`, order the channels of ``[B, ..., 3, H, W]``."""
    ones = [1] * (parts.ndim - 1)
    across, down = (
        torch.tensor(mask, device=parts.device).view(-1, *ones)
        for mask in ([flip.across for flip in flips], [flip.down for flip in flips])
    )
    parts = torch.where(across, parts.flip(-1), parts)
    parts = torch.where(down, parts.flip(-2), parts)
    if colours:
        order = torch.tensor([flip.order for flip in flips], device=parts.device)
        order = order.view(-1, *ones[:-3], 3, 1, 1).expand_as(parts)
        parts = parts.gather(-3, order)
    return parts.contiguous()


def _sum_octaves(octaves: Octaves, height: int, width: int, like: Tensor) -> Tensor:
    """Return smooth noise in 0..1, ``[height, width]``, like `effects.sum_octaves`."""
    total = like.new_zeros(height, width)
    for octave, (_, weight) in zip(octaves, OCTAVES, strict=True):
        cells = torch.from_numpy(octave).to(like.device)[None, None]
        total += weight * F.interpolate(cells, (height, width), mode="bicubic")[0, 0]
    return (total - total.min()) / (total.max() - total.min()).clamp(min=1e-6)


def _apply_fog(pair: Tensor, fog: Fog) -> None:
    H, W = pair.shape[-2:]
    opacity = fog.strength * _sum_octaves(fog.octaves, H, W + fog.drift, pair)
    both = torch.stack([opacity[:, :W], opacity[:, fog.drift :]])[:, None]
    colour = torch.from_numpy(fog.colour).to(pair.device).view(3, 1, 1)
    pair += both * (colour - pair)


def _apply_shade(pair: Tensor, shade: Shade) -> None:
    H, W = pair.shape[-2:]
    common = 1 - shade.strength * _sum_octaves(shade.common, H, W, pair)
    change = 1 + 0.4 * shade.strength * (_sum_octaves(shade.change, H, W, pair) - 0.5)
    pair *= torch.stack([common, common * change])[:, None]


def _defocus(frames: Tensor, effects: Sequence[Effects]) -> None:
    chosen = [b for b, effect in enumerate(effects) if effect.defocus]
    if chosen:
        sigmas = frames.new_tensor([effects[b].defocus for b in chosen]).view(-1, 1).expand(-1, 2)
        side = (DEFOCUS_SIDE, DEFOCUS_SIDE)
        blurred = kornia("filters").gaussian_blur2d(frames[chosen].flatten(0, 1), side, sigmas)
        frames[chosen] = blurred.view(-1, 2, *frames.shape[2:])


def _apply_films(frames: Tensor, effects: Sequence[Effects]) -> Tensor:
    """Apply tone and noise."""
    tables = np.stack([[effect.film.table(index).T for index in (0, 1)] for effect in effects])
    levels = frames.round().clamp(0, 255).long()
    toned = torch.from_numpy(tables).to(frames.device).gather(3, levels.flatten(3))
    exposed = toned.view_as(frames)
    for pair, effect in zip(exposed, effects, strict=True):
        for frame, exposure in zip(pair, effect.film.exposures, strict=True):
            frame += float(effect.film.sigma) * _grain(exposure, frame)
    return exposed.clamp(0, 255).byte()


def _grain(exposure: Exposure, frame: Tensor) -> Tensor:
    if isinstance(exposure.grain, int):
        generator = torch.Generator(frame.device).manual_seed(exposure.grain)
        return torch.randn(frame.shape, generator=generator, device=frame.device)
    return torch.from_numpy(exposure.grain).to(frame.device).permute(2, 0, 1)


def _compress(stored: Tensor, effects: Sequence[Effects]) -> None:
    """Compress frames as JPEG; kornia's rounding is a polynomial, so the result is approximate."""
    chosen = [b for b, effect in enumerate(effects) if effect.quality]
    if chosen:
        quality = torch.tensor([float(effects[b].quality or 0) for b in chosen])
        quality = quality.repeat_interleave(2).to(stored.device)
        compress = kornia("enhance").jpeg_codec_differentiable
        decoded = compress(stored[chosen].flatten(0, 1) / 255, quality)
        levels = (255 * decoded).round().clamp(0, 255).byte()
        stored[chosen] = levels.view(-1, 2, *stored.shape[2:])
