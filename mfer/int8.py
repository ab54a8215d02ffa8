"""A network in numbers of eight bits, for CPUs.

ReLU6 keeps what a convolution reads within 0..6, so that its steps are known and nothing has to be measured on faces
(Jacob et al. 2018, arXiv:1712.05877, who measure them). Weights are rounded by output channel. As ONNX, the rounding is
pairs of QuantizeLinear and DequantizeLinear, from which ONNX Runtime makes integer convolutions.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

__all__ = ["round_weights", "with_int8"]

#: Steps of an activation, and of a weight to either side of 0.
_STEPS, _MOST = 255, 127
#: What the error of a channel's sum counts beside those of its weights: ReLU6 gives no negative numbers, and
#: neighbouring pixels are alike, so errors of one sign add up. It halves what probabilities move by.
_SUM_WEIGHT = 10.0
#: Steps that are tried, in parts of the smallest that cuts off no weight.
_TRIED = torch.linspace(0.6, 1.4, 161).tolist()

Network = TypeVar("Network", bound=nn.Module)


class _Int8ReLU6(nn.Module):
    """ReLU6 in 256 steps."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(F.relu6(x), 6 / _STEPS, 0, 0, _STEPS)


class _Int8Weight(nn.Module):
    """The parametrization of rounded weights: their steps are part of the graph."""

    step: Tensor
    zero: Tensor

    def __init__(self, step: Tensor) -> None:
        super().__init__()
        self.register_buffer("step", step)
        self.register_buffer("zero", torch.zeros(len(step), dtype=torch.int32))

    def forward(self, weight: Tensor) -> Tensor:
        return torch.fake_quantize_per_channel_affine(weight, self.step, self.zero, 0, -128, 127)


def with_int8(network: Network, reads_relu6: list[nn.Conv2d]) -> Network:
    """A copy of a network for inference whose ReLU6 and the convolutions behind it compute in eight bits.

    Args:
        network: has its activations as ``nn.ReLU6`` modules.
        reads_relu6: those of its convolutions that read nothing but the output of a ReLU6.
    """
    chosen = {id(module) for module in reads_relu6}
    names = [name for name, module in network.named_modules() if id(module) in chosen]
    network = copy.deepcopy(network).eval()
    for name in names:
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        layer.weight.data, step = round_weights(layer.weight.data, in_pairs=layer.groups == 1)
        parametrize.register_parametrization(layer, "weight", _Int8Weight(step))
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, _Int8ReLU6())
    return network


def round_weights(weight: Tensor, in_pairs: bool) -> tuple[Tensor, Tensor]:
    """Near weights [O,...] of eight bits with one step per output channel, and the steps [O].

    With ``in_pairs`` neighbouring weights come to 128 steps at most, without their signs: an AVX2 processor that lacks
    VNNI adds two products in 16 bits, where 128 * 255 still fits. Depthwise convolutions are added in 32 bits.
    """
    rows = weight.flatten(1).double()
    size = rows.abs()
    if in_pairs:
        size = F.pad(size, (0, size.shape[1] % 2)).reshape(len(rows), -1, 2).sum(2)
    smallest = (size.amax(1) / _MOST).clamp_min(1e-10)
    step, least = smallest, torch.full_like(smallest, torch.inf)
    for share in _TRIED:
        if in_pairs and share < 1:
            continue
        tried = smallest * share
        error = _rounded(rows, tried) - rows
        cost = (error**2).sum(1) + _SUM_WEIGHT * error.sum(1) ** 2
        step, least = torch.where(cost < least, tried, step), torch.minimum(cost, least)
    step = step.to(weight.dtype)
    return _rounded(rows, step.double()).to(weight.dtype).reshape(weight.shape), step


def _rounded(rows: Tensor, step: Tensor) -> Tensor:
    return (rows / step[:, None]).round().clamp(-_MOST, _MOST) * step[:, None]
