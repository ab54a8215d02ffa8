"""ConvNeXt (Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv 2201.03545) without its head.

Parameters have timm's names, so that its weights fit. timm itself is only needed to test this: importing it takes
several seconds, which showing one heat map should not cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mfer.depthwise import DepthwiseConv2d

__all__ = ["ConvNeXt"]

_EPS = 1e-6


class _LayerNorm2d(nn.LayerNorm):
    """Over the channels of a map [N,C,H,W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _DropPath(nn.Module):
    """Leave the branch out for some rows while training, and make up for it in the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - self.rate)
        return x * kept.div_(1 - self.rate)


class _Mlp(nn.Module):
    """Two dense layers over the last axis, with matrix products: on a CPU quicker than 1x1 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class _Block(nn.Module):
    """A depthwise convolution and an MLP around which the input is led, float [N,C,H,W] -> [N,C,H,W]."""

    def __init__(self, width: int, layer_scale: float, drop_path: float) -> None:
        super().__init__()
        self.conv_dw = DepthwiseConv2d(width, 7)
        self.norm = nn.LayerNorm(width, _EPS)
        self.mlp = _Mlp(width)
        self.gamma = nn.Parameter(torch.full((width,), layer_scale))
        self.drop_path = _DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv_dw(x).permute(0, 2, 3, 1)  # [N,C,H,W] -> [N,H,W,C]
        branch = self.mlp(self.norm(branch)).permute(0, 3, 1, 2)
        return x + self.drop_path(branch * self.gamma[:, None, None])


class _Stage(nn.Module):
    """Blocks of one width; all stages but the first halve the map before them."""

    def __init__(self, before: int, width: int, layer_scale: float, drop_path: Sequence[float]) -> None:
        super().__init__()
        self.downsample = (
            nn.Identity()
            if before == width
            else nn.Sequential(_LayerNorm2d(before, _EPS), nn.Conv2d(before, width, 2, stride=2))
        )
        self.blocks = nn.Sequential(*(_Block(width, layer_scale, rate) for rate in drop_path))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class ConvNeXt(nn.Module):
    """Pictures float [N,in_channels,H,W] to the last feature map [N,widths[-1],H/32,W/32].

    Args:
        in_channels: of the pictures.
        depths, widths: blocks and channels of each stage.
        layer_scale: its starting value.
        drop_path: the share of the last block's branches that are left out while training; those before rise to it.
    """

    def __init__(
        self, in_channels: int, depths: Sequence[int], widths: Sequence[int], *, layer_scale: float, drop_path: float
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, widths[0], 4, stride=4), _LayerNorm2d(widths[0], _EPS))
        rates = np.split(np.linspace(0, drop_path, sum(depths)), np.cumsum(depths)[:-1])
        before = [widths[0], *widths]
        self.stages = nn.Sequential(
            *(_Stage(before[i], widths[i], layer_scale, rates[i].tolist()) for i in range(len(depths)))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x))
