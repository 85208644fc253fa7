"""
A kernel and its PyTorch equivalent
===================================

The same cost volume by `fm.ops.correlation` and by `unfold` in plain PyTorch, forward and
backward. The result is the same; `flowmatch bench` compares more operators and libraries.
"""

import time

import matplotlib.pyplot as plt
import torch

import flowmatch as fm


def unfolded(f1, f2):
    windows = torch.nn.functional.unfold(f2, 9, padding=4).unflatten(1, (-1, 81))
    return (f1.flatten(2)[:, :, None] * windows).mean(dim=1).unflatten(2, f1.shape[2:])


def milliseconds(volume_of, *features):
    start = time.perf_counter()
    volume_of(*features).sum().backward()
    return 1000 * (time.perf_counter() - start)


kernels = {
    "fm.ops.correlation": lambda f1, f2: fm.ops.correlation(f1, f2, radius=4, stride=1),
    "torch.nn.functional.unfold": unfolded,
}
features = torch.rand(2, 1, 64, 96, 96, requires_grad=True)
torch.testing.assert_close(*(kernel(*features) for kernel in kernels.values()))
plt.figure(figsize=(7, 4.5), layout="constrained")
for name, kernel in kernels.items():
    crops = {size: features[..., :size, :size] for size in (16, 24, 32, 48, 64, 80, 96)}
    times = [min(milliseconds(kernel, *crop) for _ in range(5)) for crop in crops.values()]
    plt.semilogy(list(crops), times, "o-", label=name)
plt.gca().set(xlabel="side of the feature maps, pixels", ylabel="forward and backward, ms")
plt.legend()
