"""MTCNN's three networks in PyTorch, with facenet-pytorch's weights: for GPUs, and to export them.

PReLU is written as two depthwise convolutions, relu(x) (1 - slope) + slope x. ONNX Runtime keeps convolutions in a
blocked layout that it has to leave for PReLU itself, which makes P-Net twice and O-Net and R-Net up to three times as
slow. Channels are padded with zeros to whole blocks.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfer.errors import ConfigError

__all__ = ["OutputNet", "ProposalNet", "RefineNet"]

#: Channels that ONNX Runtime computes at once on a CPU with AVX-512; half of it with AVX2.
_BLOCK = 16
#: Channels of P-Net's first layer.
_N_FIRST = 10


class _Layers(nn.Module):
    """Weights by facenet-pytorch's names; pixels 0..255 go in.

    The normalisation (x - 127.5) / 128 becomes part of the first layer.
    """

    def __init__(self, name: str, n_layers: int) -> None:
        super().__init__()
        self._weights = dict(_load_weights(name))
        first = self._weights["conv1.weight"]
        self._weights["conv1.bias"] = self._weights["conv1.bias"] - 127.5 / 128 * first.sum((1, 2, 3))
        self._weights["conv1.weight"] = first / 128
        for i in range(1, n_layers):
            self._pad(i)
        for key, value in self._weights.items():
            self.register_buffer(key.replace(".", "_"), value)

    def _pad(self, i: int) -> None:
        """Give the outputs of a convolution that another one follows whole blocks of channels."""
        spare = -len(self._weights[f"conv{i}.bias"]) % _BLOCK
        for key in (f"conv{i}.weight", f"conv{i}.bias", f"prelu{i}.weight"):
            value = self._weights[key]
            self._weights[key] = F.pad(value, (0, 0) * (value.dim() - 1) + (0, spare))
        following = f"conv{i + 1}.weight"
        self._weights[following] = F.pad(self._weights[following], (0, 0, 0, 0, 0, spare))

    def _of(self, name: str, kind: str) -> Tensor:
        return self.get_buffer(f"{name}_{kind}")

    def conv(self, name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, self._of(f"conv{name}", "weight"), self._of(f"conv{name}", "bias"))

    def layer(self, i: int, x: Tensor) -> Tensor:
        """A convolution and its PReLU."""
        x = self.conv(str(i), x)
        slope = self._of(f"prelu{i}", "weight")[:, None, None, None]
        n = len(slope)
        return F.conv2d(x, slope, groups=n) + F.conv2d(F.relu(x), 1 - slope, groups=n)

    def dense(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._of(f"dense{name}", "weight"), self._of(f"dense{name}", "bias"))

    def dense_layer(self, name: str, x: Tensor) -> Tensor:
        """A dense layer of all of a map [N,C,H,W], in the order in which it was trained, and its PReLU."""
        flat = x.permute(0, 3, 2, 1).flatten(1)  # [N,C,H,W] -> [N,W*H*C]
        return F.prelu(self.dense(name, flat), self._of(f"prelu{name}", "weight"))


class ProposalNet(_Layers):
    """P-Net: pictures uint8 [T,h,w,3] to box offsets [T,4,h',w'] and face probabilities [T,h',w'].

    The first PReLU comes after the pooling that follows it, on a quarter of the pixels, and the last one is part of the
    layer that reads it. Both are exact.
    """

    def __init__(self) -> None:
        super().__init__("pnet", 3)
        self._pool_first()
        self._join_heads()

    def _pool_first(self) -> None:
        """Rewrite max(PReLU(x)) over a window as rest(max(x)) + relu(bent(max(x))), with x of 16 channels.

        A PReLU with a slope >= 0 rises, so it may follow the pooling: s x + relu((1 - s) x). If s > 1, the second term
        would be negative: the channel is negated, and so is what the next layer reads of it. With a slope < 0 it is the
        greater of x and s x. The spare channels of the block pool s x, and max(a, b) = b + relu(a - b).
        """
        slopes = self.get_buffer("prelu1_weight")
        weight, bias = self.get_buffer("conv1_weight"), self.get_buffer("conv1_bias")
        following = self.get_buffer("conv2_weight")
        rest, bent = torch.zeros(_BLOCK, _BLOCK), torch.zeros(_BLOCK, _BLOCK)
        spare = iter(range(_N_FIRST, _BLOCK))
        for i, slope in enumerate(slopes[:_N_FIRST].tolist()):
            if slope < 0:
                j = next(spare)
                weight[j], bias[j] = slope * weight[i], slope * bias[i]
                rest[i, j], bent[i, i], bent[i, j] = 1, 1, -1
            else:
                sign = 1 if slope <= 1 else -1
                rest[i, i], bent[i, i] = sign * slope, abs(1 - slope)
                following[:, i] *= sign
        self.register_buffer("rest", rest[:, :, None, None])
        self.register_buffer("bent", bent[:, :, None, None])

    def _join_heads(self) -> None:
        """Box offsets and the difference of both logits, of s x and of (1 - s) relu(x), x before the last PReLU."""
        logits = self.get_buffer("conv4_1_weight"), self.get_buffer("conv4_1_bias")
        weight, bias = (
            torch.cat([offset, (both[1] - both[0])[None]])
            for offset, both in zip(
                (self.get_buffer("conv4_2_weight"), self.get_buffer("conv4_2_bias")), logits, strict=True
            )
        )
        slope = self.get_buffer("prelu3_weight")[:, None, None]
        self.register_buffer("heads_bias", bias)
        self.register_buffer("heads_of_x", weight * slope)
        self.register_buffer("heads_of_relu", weight * (1 - slope))

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv("1", level.permute(0, 3, 1, 2).float())  # [T,h,w,3] -> [T,16,h-2,w-2]
        x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        x = F.conv2d(x, self.get_buffer("rest")) + F.relu(F.conv2d(x, self.get_buffer("bent")))
        x = self.conv("3", self.layer(2, x))
        of_relu = F.conv2d(F.relu(x), self.get_buffer("heads_of_relu"), self.get_buffer("heads_bias"))
        heads = F.conv2d(x, self.get_buffer("heads_of_x")) + of_relu
        return heads[:, :4], torch.sigmoid(heads[:, 4])


class RefineNet(_Layers):
    """R-Net: squares float [N,24,24,3] in 0..255 to box offsets [N,4] and face probabilities [N]."""

    def __init__(self) -> None:
        super().__init__("rnet", 3)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layer(1, crops.permute(0, 3, 1, 2))  # [N,24,24,3] -> [N,3,24,24]
        x = self.layer(2, F.max_pool2d(x, 3, 2, ceil_mode=True))
        x = self.dense_layer("4", self.layer(3, F.max_pool2d(x, 3, 2, ceil_mode=True)))
        return self.dense("5_2", x), torch.softmax(self.dense("5_1", x), 1)[:, 1]


class OutputNet(_Layers):
    """O-Net: squares uint8 [F,3,48,48] to box offsets [F,4], landmarks [F,10] (five x, five y), probabilities [F]."""

    def __init__(self) -> None:
        super().__init__("onet", 4)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(self.layer(1, crops.float()), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.layer(2, x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.layer(3, x), 2, 2, ceil_mode=True)
        x = self.dense_layer("5", self.layer(4, x))
        return self.dense("6_2", x), self.dense("6_3", x), torch.softmax(self.dense("6_1", x), 1)[:, 1]


def _load_weights(name: str) -> Mapping[str, Tensor]:
    """Weights of ``pnet``, ``rnet`` or ``onet`` from facenet-pytorch's package, without importing it."""
    spec = importlib.util.find_spec("facenet_pytorch")
    if spec is None or spec.origin is None:
        raise ConfigError("MTCNN's weights are missing; pip install facenet-pytorch==2.5.3 --no-deps")
    weights: Mapping[str, Tensor] = torch.load(
        Path(spec.origin).parent / "data" / f"{name}.pt", map_location="cpu", weights_only=True
    )
    return weights
