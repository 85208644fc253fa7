"""The flow of a network at the resolution of its input: zoom, tiles, precision, upsampling."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmatch.devices import PRECISIONS
from flowmatch.flow.networks.padding import SMALLEST
from flowmatch.flow.options import AUTOMATIC_TILE, LARGEST_WHOLE, FlowOptions
from flowmatch.flow.tiles import blend_tiles


def run_network(network: nn.Module, first: Tensor, second: Tensor, options: FlowOptions) -> Tensor:
    """Return the flow of a network, ``[B, 2, H, W]``, in pixels.

    Enlarged images that are too large for the memory are split into tiles.

    Args:
        network: A network that takes two batches.
        first: RGB images in [0, 1], ``[B, 3, H, W]``.
        second: The later images, same shape.
        options: Zoom, tiles and precision.
    """
    dtype = PRECISIONS[options.precision]

    def run_whole(a: Tensor, b: Tensor) -> Tensor:
        zoomed = [_zoom_image(image, options.zoom) for image in (a, b)]
        with torch.no_grad(), torch.autocast(a.device.type, dtype, enabled=dtype is not None):
            flow = to_full_resolution(network(*zoomed)[0].float(), *zoomed[0].shape[-2:])
        return _resize_flow(flow, a.shape[-2], a.shape[-1])

    H, W = first.shape[-2:]
    if options.zoom <= 1 or H * W * options.zoom**2 <= LARGEST_WHOLE:
        return run_whole(first, second)
    tile = int(AUTOMATIC_TILE / options.zoom)  # what the network sees is as large as a tile
    return blend_tiles(run_whole, first, second, tile, options.overlap_of(tile))


def _zoom_image(image: Tensor, zoom: float) -> Tensor:
    """Enlarge or reduce images, but to no less than the smallest input of a network."""
    size = [max(SMALLEST, round(side * zoom)) for side in image.shape[-2:]]
    if size == list(image.shape[-2:]):
        return image
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


def _resize_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """Resize a flow; its values scale with its size."""
    h, w = flow.shape[-2:]
    if (h, w) == (height, width):
        return flow
    scale = flow.new_tensor([width / w, height / h]).view(2, 1, 1)
    return scale * F.interpolate(flow, (height, width), mode="bilinear", antialias=True)


def to_full_resolution(flow: Tensor, height: int, width: int) -> Tensor:
    """Upsample a flow ``[B, 2, h, w]``; its values scale with its size.

    Networks round the sizes of their levels up, so the flow may extend beyond the image: it is
    enlarged by a whole factor and cropped.
    """
    factor = -(-width // flow.shape[-1])
    if factor > 1:
        up = F.interpolate(flow, scale_factor=factor, mode="bilinear", align_corners=False)
        flow = up * factor
    return flow[..., :height, :width]
