"""
A kernel and its PyTorch equivalent
===================================

The same cost volume by `fm.ops.correlation` and by 81 shifted products in plain PyTorch, forward
and backward. The result is the same; `flowmatch bench` compares more operators and libraries.
"""

import time

import matplotlib.pyplot as plt
import torch

import flowmatch as fm


def shifted_products(f1, f2):
    (H, W), padded = f1.shape[2:], torch.nn.functional.pad(f2, (4, 4, 4, 4))
    windows = [padded[..., k // 9 :, k % 9 :][..., :H, :W] for k in range(81)]
    return torch.stack([(f1 * window).mean(1) for window in windows], dim=1)


def milliseconds(volume_of, *features):
    start = time.perf_counter()
    volume_of(*features).sum().backward()
    return 1000 * (time.perf_counter() - start)


kernels = {
    "fm.ops.correlation": lambda f1, f2: fm.ops.correlation(f1, f2, radius=4, stride=1),
    "81 shifted products": shifted_products,
}
features = torch.rand(2, 1, 64, 96, 96, requires_grad=True)
torch.testing.assert_close(*(kernel(*features) for kernel in kernels.values()))
plt.figure(figsize=(7, 4.5), layout="constrained")
for name, kernel in kernels.items():
    crops = {size: features[..., :size, :size] for size in (16, 24, 32, 48, 64, 80, 96)}
    times = [min(milliseconds(kernel, *crop) for _ in range(5)) for crop in crops.values()]
    plt.semilogy(list(crops), times, "o-", label=name)
plt.xlabel("side of the feature maps, pixels")
plt.ylabel("forward and backward, ms")
plt.legend()
