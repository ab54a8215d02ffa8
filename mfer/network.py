"""The MFER network: a ConvNeXt with DS attention and a multiscale classifier.

Source: "Multiscale Facial Expression Recognition Based on Dynamic Global and Static Local Attention",
IEEE TAFFC 2024, doi 10.1109/TAFFC.2024.3458464. Where the paper's figures and the authors' code differ, the
blocks follow the code, because that is what was trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfer.card import ARCHITECTURES, Architecture, CropContract
from mfer.crop import normalise
from mfer.depthwise import DepthwiseConv2d
from mfer.errors import ConfigError

__all__ = [
    "MFER",
    "CalibratedMFER",
    "DSAttention",
    "ExpressionNetwork",
    "MultiscaleClassifier",
    "ServedMFER",
    "SingleClassifier",
]

#: DS attention follows these stages (0-based), as published.
DS_STAGES = (2, 3)
#: The feature is cut into this many quarters; head i sees the first 2 + i of them.
N_HEADS = 3


class _DenseConv2d(nn.Conv2d):
    """A 7x7 convolution without the rows and columns of its kernel that lie beyond the map wherever it is put.

    The sums are the same and on the 2x2 map that ends a 40 px face a fifth of them. PyTorch 2.15's gradients of a
    kernel that is larger than that are arbitrary numbers in bfloat16 on a CPU (oneDNN leaves them unset).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        up, left = (min(3, int(side) - 1) for side in x.shape[2:])
        kernel = self.weight[:, :, 3 - up : 4 + up, 3 - left : 4 + left]
        return F.conv2d(x, kernel, self.bias, padding=(up, left))


class DSAttention(nn.Module):
    """Dynamic global and static local attention, float [N,C,H,W] -> [N,C,H,W].

    With x as [N,HW,C]: key = W2 GELU(W1 x) * x, query = LN(GELU(conv7x7(x))), value = W3 x and
    out = x + softmax over positions (query + key) * value, element by element.
    """

    def __init__(self, channels: int, depthwise: bool = False) -> None:
        super().__init__()
        self.key = nn.Sequential(nn.Linear(channels, channels // 8), nn.GELU(), nn.Linear(channels // 8, channels))
        self.query_conv = DepthwiseConv2d(channels, 7) if depthwise else _DenseConv2d(channels)
        self.query_norm = nn.LayerNorm(channels)
        self.value = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        # the tokens of all faces in one matrix [NHW,C], which is multiplied faster than one matrix a face
        tokens = x.permute(0, 2, 3, 1).reshape(-1, c)
        local = self.query_conv(x).permute(0, 2, 3, 1).reshape(-1, c)
        query = self.query_norm(F.gelu(local))
        key = self.key(tokens) * tokens
        share = torch.softmax((query + key).reshape(n, h * w, c), dim=1).reshape(-1, c)
        out = tokens + share * self.value(tokens)
        return out.reshape(n, h, w, c).permute(0, 3, 1, 2)


class MultiscaleClassifier(nn.Module):
    """Three heads on growing prefixes of the feature; their logits are added. float [N,C] -> [N,K]."""

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        if channels % 4:
            raise ConfigError(
                f"the multiscale classifier cuts the feature in quarters; {channels} is not divisible by 4"
            )
        self.widths = [channels // 4 * (2 + i) for i in range(N_HEADS)]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(w, w), nn.GELU(), nn.Linear(w, n_classes)) for w in self.widths
        )

    def head_logits(self, feature: Tensor) -> Tensor:
        """Logits of every head for themselves, float [heads,N,K]: training puts its loss on each."""
        return torch.stack([head(feature[:, :w]) for head, w in zip(self.heads, self.widths, strict=True)])

    def forward(self, feature: Tensor) -> Tensor:
        return self.head_logits(feature).sum(0)


class SingleClassifier(nn.Linear):
    """One linear map to the classes, with the interface of MultiscaleClassifier."""

    def head_logits(self, feature: Tensor) -> Tensor:
        return self(feature)[None]


class ExpressionNetwork(nn.Module):
    """Expression logits from aligned faces: what training, evaluation and export know of a network.

    ``forward`` takes float [N,C,S,S], normalised as the crop contract says, and returns logits float [N,K].
    ``embed`` gives the pooled and normalised feature [N,D] that the feature losses and ``classifier`` see. A subclass
    sets the attributes below, names the modules that end its stages in ``stage_outputs`` and defines ``embed``.
    """

    architecture: Architecture
    feature_dim: int
    mirror: bool
    classifier: MultiscaleClassifier | SingleClassifier
    #: Source and licence of the weights that ``pretrained_state`` gives, for the card.
    pretrained_licence: str = ""

    def embed(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def stage_outputs(self) -> list[nn.Module]:
        """The modules whose outputs are the feature maps [N,C,h,w] of the stages, from the input on."""
        raise NotImplementedError

    def depths(self) -> list[nn.Module]:
        """The modules from the input on that layer-wise learning rates step through; the rest learns at full rate."""
        raise NotImplementedError

    def pretrained_state(self) -> dict[str, Tensor] | None:
        """Weights learned elsewhere for all but attention, norm and classifier; None where nothing was learned before.

        Raises:
            ConfigError: their file is missing, or not the published one.
        """
        return None

    def with_int8(self) -> ExpressionNetwork | None:
        """A copy that computes mostly in numbers of eight bits, for ONNX Runtime; None of a network that cannot.

        The architectures that can are ``mfer.card.INT8_ARCHITECTURES``.
        """
        return None

    def load_pretrained(self) -> None:
        """Start from the pretrained weights; a network without such weights keeps its random ones."""
        if (state := self.pretrained_state()) is not None:
            own = ("attention.", "norm.", "classifier.")
            fresh = {k: v for k, v in self.state_dict().items() if k.startswith(own)}
            self.load_state_dict({**fresh, **state}, strict=True)

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N,K] and the features [N,D] behind them; with ``mirror`` the means over face and mirror image."""
        if not self.mirror or self.training:
            feature = self.embed(x)
            return self.classifier(feature), feature
        feature = self.embed(torch.cat([x, x.flip(3)]))
        logits = self.classifier(feature)
        return logits.reshape(2, -1, logits.shape[1]).mean(0), feature.reshape(2, -1, self.feature_dim).mean(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(x)[0]


class MFER(ExpressionNetwork):
    """The published network, or one of the variants that ``Architecture`` describes.

    ``forward_features`` gives the last feature map [N,D,h,w] and ``forward_head`` logits from it.
    """

    def __init__(self, architecture: Architecture) -> None:
        import timm  # late: it loads torchvision, three seconds that ONNX Runtime does without
        from timm.models.convnext import ConvNeXtBlock

        super().__init__()
        self.architecture = architecture
        backbone: Any = timm.create_model(
            ARCHITECTURES[architecture.name],
            pretrained=False,
            num_classes=0,
            in_chans=architecture.in_channels,
            drop_path_rate=architecture.drop_path,
            ls_init_value=architecture.layer_scale,
            conv_mlp=False,  # the same sums as 1x1 convolutions, as matrix products, which a CPU does faster
        )
        for block in backbone.modules():
            if isinstance(block, ConvNeXtBlock):
                block.conv_dw = DepthwiseConv2d(block.conv_dw.in_channels, 7)
                nn.init.trunc_normal_(block.conv_dw.weight, std=0.02)
                nn.init.zeros_(block.conv_dw.bias)
        widths = [info["num_chs"] for info in backbone.feature_info]
        self.stem = backbone.stem
        if architecture.stem == "conv2":
            self.stem[0] = first = nn.Conv2d(architecture.in_channels, widths[0], 3, stride=2, padding=1)
            assert first.bias is not None
            nn.init.trunc_normal_(first.weight, std=0.2)
            nn.init.zeros_(first.bias)
        self.stages = backbone.stages
        self.attention = nn.ModuleDict(
            {
                str(stage): DSAttention(widths[stage], depthwise=architecture.ds == "depthwise")
                for stage in (DS_STAGES if architecture.ds != "none" else ())
            }
        )
        self.feature_dim: int = widths[-1]
        self.mirror = architecture.mirror
        self.norm = nn.LayerNorm(self.feature_dim)
        classifier = MultiscaleClassifier if architecture.multiscale else SingleClassifier
        self.classifier = classifier(self.feature_dim, architecture.n_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if str(i) in self.attention:
                x = self.attention[str(i)](x)
        return x

    def pool(self, feature_map: Tensor) -> Tensor:
        return self.norm(feature_map.mean((2, 3)))  # [N,D,h,w] -> [N,D]

    def forward_head(self, feature_map: Tensor) -> Tensor:
        return self.classifier(self.pool(feature_map))

    def embed(self, x: Tensor) -> Tensor:
        return self.pool(self.forward_features(x))

    def stage_outputs(self) -> list[nn.Module]:
        found: list[nn.Module] = []
        for i, stage in enumerate(self.stages):
            found += [stage, self.attention[str(i)]] if str(i) in self.attention else [stage]
        return found

    def depths(self) -> list[nn.Module]:
        return [self.stem, *self.stage_outputs()]


class CalibratedMFER(nn.Module):
    """Probabilities float [N,K] after temperature, of normalised crops: what every runtime serves."""

    def __init__(self, model: ExpressionNetwork, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.model(x).float() / self.temperature, dim=1)


class ServedMFER(CalibratedMFER):
    """Crops as they are cut, uint8 [N,C,S,S], to probabilities float [N,K]: what analyses run."""

    def __init__(self, model: ExpressionNetwork, temperature: float, crop: CropContract) -> None:
        super().__init__(model, temperature)
        self.crop = crop

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(normalise(x, self.crop))
