"""Backbones of timm, the package of image models, by name."""

import importlib
from typing import Any

import torch
from torch import Tensor, nn

PREFIX = "timm/"


class TimmBackbone(nn.Module):
    """A model of timm without its classifier, pooled as timm does.

    Args:
        name: Name in timm, such as ``"resnet50.a1_in1k"`` or ``"vit_small_patch16_224"``, with or
            without ``timm/`` before it.
        channels: Number of channels of the pictures.
        pretrained: Whether timm downloads its weights; otherwise they are random.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no model of that name.

    Attributes:
        prefix: What precedes timm's parameter names in those of this module.

    Reference:
        Wightman, PyTorch Image Models, https://github.com/huggingface/pytorch-image-models.
    """

    prefix = "model."
    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, channels: int = 3, pretrained: bool = False) -> None:
        super().__init__()
        try:
            timm: Any = importlib.import_module("timm")
        except ImportError as error:
            raise ImportError(
                f"backbone {name} needs timm: pip install 'flowmatch[timm]' ({error})"
            ) from error
        model = name.removeprefix(PREFIX)
        if not timm.is_model(model):
            raise ValueError(f"backbone must be a model of timm after {PREFIX}, got {name!r}")
        self.model = timm.create_model(
            model, pretrained=pretrained, num_classes=0, in_chans=channels
        )
        # The pooled features; some models have another layer after their last feature map.
        self.channels = int(getattr(self.model, "head_hidden_size", self.model.num_features))
        self.grid = 1
        configuration = self.model.pretrained_cfg
        for buffer, key in (("mean", "mean"), ("deviation", "std")):
            numbers = torch.tensor(configuration[key])
            # Gray pictures: the mean of the colours' statistics.
            numbers = numbers if channels == len(numbers) else numbers.mean().repeat(channels)
            self.register_buffer(buffer, numbers[:, None, None], persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute pooled features.

        Args:
            pictures: ``[N, channels, H, W]`` in 0..1; some models need the size they are made for.

        Returns:
            ``[N, features, 1, 1]``.
        """
        features: Tensor = self.model(self.prepare(pictures))
        return features[..., None, None]

    def prepare(self, pictures: Tensor) -> Tensor:
        """Normalise colours as the model's published weights expect them.

        Args:
            pictures: ``[N, channels, H, W]`` in 0..1.

        Returns:
            A tensor of the same shape.
        """
        return (pictures - self.mean) / self.deviation

    def parts(self) -> tuple[list[nn.Module], list[int]]:
        """Refuse to split the model: HDC and ABE need a backbone of three stages.

        Raises:
            ValueError: Always.
        """
        raise ValueError("a timm backbone has no stages, as hdc and abe need: take another one")
