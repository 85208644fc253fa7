"""What cameras and weather do to frames, by torch and for a batch: `effects.degrade`'s other half.

Frames are ``[B, 2, 3, H, W]``: of each pair the first and the second.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from kornia.enhance import jpeg_codec_differentiable
from kornia.filters import gaussian_blur2d
from torch import Tensor

from flowmatch.flow.synthetic.effects import OCTAVES, Effects, Exposure, Fog, Octaves, Shade
from flowmatch.flow.synthetic.plan import Flip

DEFOCUS_SIDE = 19  # pixels: four of the largest standard deviation that is drawn, to each side


def develop(frames: Tensor, effects: Sequence[Effects]) -> Tensor:
    """Do to each pair what was drawn for it, but for the motion blur.

    Args:
        frames: As the scenes paint them, ``[B, 2, 3, H, W]`` float32, 0..255.
        effects: One for each pair.

    Returns:
        What cameras store of them, uint8.
    """
    frames = frames.clone()
    for pair, effect in zip(frames, effects, strict=True):
        if effect.fog:
            _cover(pair, effect.fog)
        if effect.shade:
            _light(pair, effect.shade)
    _defocus(frames, effects)
    stored = _expose(frames, effects)
    _compress(stored, effects)
    return stored


def mirror(parts: Tensor, flips: Sequence[Flip], colours: bool = True) -> Tensor:
    """Mirror ``[B, ..., H, W]``; with `colours`, order the channels of ``[B, ..., 3, H, W]``."""
    one = [1] * (parts.ndim - 1)
    across, down = (
        torch.tensor(which, device=parts.device).view(-1, *one)
        for which in ([how.across for how in flips], [how.down for how in flips])
    )
    parts = torch.where(across, parts.flip(-1), parts)
    parts = torch.where(down, parts.flip(-2), parts)
    if colours:
        order = torch.tensor([how.order for how in flips], device=parts.device)
        order = order.view(-1, *one[:-3], 3, 1, 1).expand_as(parts)
        parts = parts.gather(-3, order)
    return parts.contiguous()


def _clouds(octaves: Octaves, height: int, width: int, like: Tensor) -> Tensor:
    """Return smooth noise in 0..1, ``[height, width]``, as `effects.clouds` does."""
    total = like.new_zeros(height, width)
    for octave, (_, weight) in zip(octaves, OCTAVES, strict=True):
        cells = torch.from_numpy(octave).to(like.device)[None, None]
        total += weight * F.interpolate(cells, (height, width), mode="bicubic")[0, 0]
    return (total - total.min()) / (total.max() - total.min()).clamp(min=1e-6)


def _cover(pair: Tensor, fog: Fog) -> None:
    H, W = pair.shape[-2:]
    veil = fog.strength * _clouds(fog.octaves, H, W + fog.drift, pair)
    veils = torch.stack([veil[:, :W], veil[:, fog.drift :]])[:, None]
    colour = torch.from_numpy(fog.colour).to(pair.device).view(3, 1, 1)
    pair += veils * (colour - pair)


def _light(pair: Tensor, shade: Shade) -> None:
    H, W = pair.shape[-2:]
    common = 1 - shade.strength * _clouds(shade.common, H, W, pair)
    change = 1 + 0.4 * shade.strength * (_clouds(shade.change, H, W, pair) - 0.5)
    pair *= torch.stack([common, common * change])[:, None]


def _defocus(frames: Tensor, effects: Sequence[Effects]) -> None:
    chosen = [b for b, effect in enumerate(effects) if effect.defocus]
    if chosen:
        sigmas = frames.new_tensor([effects[b].defocus for b in chosen]).view(-1, 1).expand(-1, 2)
        side = (DEFOCUS_SIDE, DEFOCUS_SIDE)
        blurred = gaussian_blur2d(frames[chosen].flatten(0, 1), side, sigmas)
        frames[chosen] = blurred.view(-1, 2, *frames.shape[2:])


def _expose(frames: Tensor, effects: Sequence[Effects]) -> Tensor:
    """Apply tone and noise."""
    tables = np.stack([[effect.film.table(frame).T for frame in (0, 1)] for effect in effects])
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
    """Store and read as JPEG, nearly: kornia rounds by a polynomial."""
    chosen = [b for b, effect in enumerate(effects) if effect.quality]
    if chosen:
        quality = torch.tensor([float(effects[b].quality or 0) for b in chosen])
        quality = quality.repeat_interleave(2).to(stored.device)
        read = jpeg_codec_differentiable(stored[chosen].flatten(0, 1) / 255, quality)
        stored[chosen] = (255 * read).round().clamp(0, 255).byte().view(-1, 2, *stored.shape[2:])
