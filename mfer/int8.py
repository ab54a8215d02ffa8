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

_STEPS = 255
#: Without VNNI an AVX2 processor adds two products of activation and weight in 16 bits: 2 * 255 * 63 still fits. Its
#: routine for depthwise convolutions multiplies in 32 bits.
_BITS, _DEPTHWISE_BITS = 7, 8
#: What the error of a channel's sum counts beside those of its weights: ReLU6 gives no negative numbers, and
#: neighbouring pixels are alike, so errors of one sign add up. It halves the difference from float32.
_SUM_WEIGHT = 1.0
#: Steps that are tried, as shares of the one that reaches a channel's largest weight.
_TRIED = torch.linspace(0.6, 1, 81).tolist()

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
        bits = _DEPTHWISE_BITS if layer.groups == layer.in_channels else _BITS
        layer.weight.data, step = round_weights(layer.weight.data, bits)
        parametrize.register_parametrization(layer, "weight", _Int8Weight(step))
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, _Int8ReLU6())
    return network


def round_weights(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The nearest weights [O,...] of so many bits with one step per output channel, and the steps [O]."""
    rows, most = weight.flatten(1).double(), 2 ** (bits - 1) - 1
    largest = rows.abs().amax(1).clamp_min(1e-8)
    step, least = largest / most, torch.full_like(largest, torch.inf)
    for share in _TRIED:
        tried = largest * share / most
        error = _rounded(rows, tried, most) - rows
        cost = (error**2).sum(1) + _SUM_WEIGHT * error.sum(1) ** 2
        step, least = torch.where(cost < least, tried, step), torch.minimum(cost, least)
    step = step.to(weight.dtype).double()
    return _rounded(rows, step, most).to(weight.dtype).reshape(weight.shape), step.to(weight.dtype)


def _rounded(rows: Tensor, step: Tensor, most: int) -> Tensor:
    return (rows / step[:, None]).round().clamp(-most, most) * step[:, None]
