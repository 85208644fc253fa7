"""Padding to strides."""

import torch

from flowmatch.flow.networks.padding import pad_to_multiple


def test_padding_compiles_for_any_size():
    """From the second size on, the compiled function has symbolic sides and padding."""
    convolve = torch.nn.Conv2d(3, 3, 3, 2, 1)

    def double(image):
        halves = convolve(pad_to_multiple(image, 8))
        return torch.nn.functional.interpolate(halves, scale_factor=2)[..., : image.shape[-1]]

    compiled = torch.compile(double, backend="aot_eager")
    for size in ((33, 47), (50, 71)):
        image = torch.rand(1, 3, *size)
        torch.testing.assert_close(compiled(image), double(image))
