"""Depthwise convolution that is quick on the small maps of a face network.

On a CPU the library's backward pass of a 7x7 depthwise convolution over a 4x4 map costs more than the rest of a
ConvNeXt block together. Over so few positions the convolution is a small dense matrix per channel, and as a batched
matrix product it makes a whole training step 1.2 to 1.3 times faster (benchmarks/depthwise.py). Large maps, GPUs and
export keep the library's kernel: the parameters are the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DepthwiseConv2d"]

#: Above this many positions the matrix (its square, per channel) costs more than the kernel.
_MAX_POSITIONS = 256


@lru_cache(maxsize=32)
def _taps(height: int, width: int, kernel: int) -> Tensor:
    """For output and input position, the tap that joins them, int64 [HW*HW]; kernel**2 where none does."""
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = ys.reshape(-1), xs.reshape(-1)
    dy = y[:, None] - y[None, :] + kernel // 2  # [in, out]
    dx = x[:, None] - x[None, :] + kernel // 2
    inside = (dy >= 0) & (dy < kernel) & (dx >= 0) & (dx < kernel)
    return torch.where(inside, dy * kernel + dx, kernel * kernel).reshape(-1)


class _DenseGradient(torch.autograd.Function):
    """The identity, whose gradient is laid out afresh: a batched product over a strided one falls back to a loop."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous()


class DepthwiseConv2d(nn.Conv2d):
    """nn.Conv2d with groups = channels, odd square kernel, stride 1 and "same" zero padding."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if not (self.training and x.device.type == "cpu" and h * w <= _MAX_POSITIONS):
            return super().forward(x)
        taps = F.pad(self.weight.reshape(c, -1), (0, 1))  # a zero for pairs of positions that no tap joins
        matrix = taps.index_select(1, _taps(h, w, self.kernel_size[0])).view(c, h * w, h * w)
        columns = x.flatten(2).transpose(0, 1).contiguous()  # [N,C,H,W] -> [C,N,HW]
        assert self.bias is not None
        out = _DenseGradient.apply(torch.bmm(columns, matrix)).view(c, n, h, w) + self.bias[:, None, None, None]
        return out.transpose(0, 1)  # [C,N,H,W] -> [N,C,H,W]
