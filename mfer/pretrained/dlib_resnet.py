"""dlib's face network: a ResNet of 29 convolutions that learned identities on three million faces.

Source: Davis King, dlib_face_recognition_resnet_model_v1 (CC0), read without dlib from the package
face-recognition-models.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfer.card import Architecture
from mfer.errors import ConfigError
from mfer.network import ExpressionNetwork, SingleClassifier
from mfer.pretrained.files import DLIB_SHA256, dlib_file, read_verified

__all__ = ["DlibResNet", "read_dlib"]

#: Channels and blocks of the stages; the first block of every stage but the first halves the map.
_STAGES = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))
_MEAN_RGB = (122.782, 117.001, 104.298)
_IDENTITY_DIM = 128


class _Block(nn.Module):
    """Two 3x3 convolutions and the input, all in dlib's way of halving a map."""

    def __init__(self, in_channels: int, channels: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.first = nn.Conv2d(in_channels, channels, 3, stride=2 if halves else 1, padding=0 if halves else 1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(F.relu(self.first(x)))
        if self.halves:
            x = F.avg_pool2d(x, 2)
            height, width = (max(out.shape[i], x.shape[i]) for i in (2, 3))
            out = F.pad(out, (0, width - out.shape[3], 0, height - out.shape[2]))
            more = out.shape[1] - x.shape[1]
            x = F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2], 0, more))
        return F.relu(out + x)


class DlibResNet(ExpressionNetwork):
    """Expressions from the means of the last two stages of dlib's face network, one linear map.

    Takes pixels in 0..1 (a crop with mean 0 and deviation 1), grey or RGB, of 128 px or more; it was trained at
    150 px.
    """

    pretrained_licence = "started from dlib_face_recognition_resnet_model_v1 (CC0)"

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.mirror = architecture.mirror
        self.stem = nn.Conv2d(3, _STAGES[0][0], 7, stride=2)
        self.stages = nn.ModuleList()
        before = _STAGES[0][0]
        for i, (channels, n) in enumerate(_STAGES):
            blocks = [_Block(before if j == 0 else channels, channels, halves=i > 0 and j == 0) for j in range(n)]
            self.stages.append(nn.Sequential(*blocks))
            before = channels
        self.feature_dim = _STAGES[-2][0] + _STAGES[-1][0]
        self.norm = nn.LayerNorm(self.feature_dim)
        self.classifier = SingleClassifier(self.feature_dim, architecture.n_classes)

    def pretrained_state(self) -> dict[str, Tensor]:
        return read_dlib()[0]

    def maps(self, x: Tensor) -> list[Tensor]:
        """The maps [N,C,h,w] of the five stages."""
        rgb = (x.expand(-1, 3, -1, -1) * 255 - x.new_tensor(_MEAN_RGB)[:, None, None]) / 256
        x = F.max_pool2d(F.relu(self.stem(rgb)), 3, stride=2)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def embed(self, x: Tensor) -> Tensor:
        return self.norm(torch.cat([a.mean((2, 3)) for a in self.maps(x)[-2:]], 1))

    def stage_outputs(self) -> list[nn.Module]:
        return list(self.stages)

    def depths(self) -> list[nn.Module]:
        return [self.stem, *(block for stage in self.stages for block in stage.children())]


def read_dlib() -> tuple[dict[str, Tensor], Tensor]:
    """The published trunk as the state of :class:`DlibResNet` without its head, and the last matrix [256,128], which
    makes identities of the mean of the last map: no model here keeps it.

    dlib writes an integer as its length in bytes and those bytes, and a parameter tensor as the integers 2, n, 1, 1
    and 1 before n float32. Each convolution (kernel, then biases) has an affine layer (gains, then shifts)
    behind it, which is folded into it.

    Raises:
        ConfigError: the file is missing or not the published one.
    """
    path = dlib_file()
    data = read_verified(path, DLIB_SHA256)
    at = 0

    def take(n: int, *more: int) -> np.ndarray:
        nonlocal at
        header = b"".join(_integer(value) for value in (2, n, *(more or (1, 1, 1))))
        found = data.find(header, at)
        if found < 0:
            raise ConfigError(f"{path} holds no tensor of {n} values where one should be")
        start = found + len(header)
        at = start + 4 * int(np.prod([n, *more]))
        return np.frombuffer(data[start:at], "<f4")

    def convolution(out: int, into: int, side: int) -> tuple[Tensor, Tensor]:
        values = take(out * into * side * side + out)
        kernel, bias = values[:-out].reshape(out, into, side, side), values[-out:]
        gain, shift = take(2 * out).reshape(2, out)
        return torch.from_numpy(kernel * gain[:, None, None, None]), torch.from_numpy(bias * gain + shift)

    before = _STAGES[0][0]
    state = dict(zip(("stem.weight", "stem.bias"), convolution(before, 3, 7), strict=True))
    for i, (channels, n) in enumerate(_STAGES):
        for j in range(n):
            for name, into in (("first", before), ("second", channels)):
                prefix = f"stages.{i}.{j}.{name}"
                state[f"{prefix}.weight"], state[f"{prefix}.bias"] = convolution(channels, into, 3)
            before = channels
    identity = take(before, _IDENTITY_DIM, 1, 1).reshape(before, _IDENTITY_DIM)
    return state, torch.from_numpy(identity.copy())


def _integer(value: int) -> bytes:
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "little")
