"""
A correlation layer in a network of your own
============================================

Two convolutions around `fm.ops.correlation` learn from shifted pictures, and see a square move.
"""

import matplotlib.pyplot as plt
import torch
from skimage import data
from torch.nn import Conv2d, ReLU, Sequential, functional

import flowmatch as fm

torch.manual_seed(0)
photo = torch.from_numpy(data.gravel()).float()[None, None] / 255
shifts = torch.cartesian_prod(torch.arange(-5.0, 6), torch.arange(-5.0, 6)).flip(1)  # (u, v)
features = Sequential(Conv2d(1, 8, 5, padding=2), ReLU(), Conv2d(8, 16, 5, padding=2))


def network(first, second):
    f1, f2 = (functional.normalize(features(image)) for image in (first, second))
    costs = fm.ops.correlation(f1, f2, radius=5, stride=1)  # [B, 11 * 11, H, W]
    return torch.einsum("bkyx,kc->bcyx", (200 * costs).softmax(dim=1), shifts)


optimizer = torch.optim.Adam(features.parameters(), 0.01)
for u, v in torch.randint(-5, 6, (250, 2)).tolist():
    flow = network(photo[..., 99:163, 99:163], photo.roll((v, u), (2, 3))[..., 99:163, 99:163])
    error = (flow - torch.tensor([u, v])[:, None, None])[..., 8:-8, 8:-8].norm(dim=1).mean()
    optimizer.zero_grad()
    error.backward()
    optimizer.step()
second = photo.roll((2, -3), (2, 3))
second[..., 130:380, 130:380] = photo.roll((-3, 4), (2, 3))[..., 130:380, 130:380]
flow = network(photo, second)[0].permute(1, 2, 0).detach().numpy()
plt.figure(figsize=(9, 4.8), layout="constrained")
bare = {"xticks": [], "yticks": []}
plt.subplot(121, title="second frame: a square moved", **bare).imshow(second.numpy()[0, 0], "gray")
plt.subplot(122, title="flow by the network", **bare).imshow(fm.draw.flow_to_image(flow))
