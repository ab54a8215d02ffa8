"""MTCNN's three networks, each run over a whole batch at once.

Weights, thresholds and suppression are facenet-pytorch's; only the layout of the work differs. All proposals
of a batch are cut and resized at once, each from the level of the pyramid whose scale fits; ties are broken by order,
so that a frame's faces do not depend on its neighbours.
"""

from __future__ import annotations

import importlib.util
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mfer.errors import ConfigError
from pipelines.faces.detectors import DetectorSettings
from pipelines.scoring.onnx import OnnxNet, load_or_export

__all__ = ["ONET_SIDE_PX", "PYRAMID_FACTOR", "THRESHOLDS", "MtcnnNetworks", "square", "suppress"]

_PNET_SIDE_PX, _PNET_STRIDE_PX, _RNET_SIDE_PX, ONET_SIDE_PX = 12, 2, 24, 48
#: Overlaps above which the weaker of two boxes is dropped: within a level, and within a frame.
_SAME_LEVEL_IOU, _SAME_FRAME_IOU = 0.5, 0.7
#: facenet-pytorch's: least probabilities of P-Net and R-Net, and the scale from one level of the pyramid to the next.
THRESHOLDS, PYRAMID_FACTOR = (0.6, 0.7), 0.709
#: Channels of P-Net's first layer, after its 10 are padded with zeros.
_FULL_VECTOR = 16

Weights = dict[str, Tensor]
_Level = tuple[float, Tensor]  # scale, and uint8 [T,h,w,3]


class MtcnnNetworks:
    """P-Net, R-Net and O-Net (Zhang et al. 2016, doi 10.1109/LSP.2016.2603342).

    Args:
        settings: the smallest face.
        device: where the networks run; O-Net, which sees a face at a time, is quicker in ONNX Runtime on a CPU.
    """

    def __init__(self, settings: DetectorSettings, device: str | torch.device = "cpu") -> None:
        self.settings = settings
        self.device = torch.device(device)
        self._pnet, self._rnet = (_load_weights(name, self.device) for name in ("pnet", "rnet"))

    @cached_property
    def _onet(self) -> OnnxNet | _OutputNet:
        if self.device.type != "cpu":
            return _OutputNet(self.device)
        example = np.zeros((2, 3, ONET_SIDE_PX, ONET_SIDE_PX), np.uint8)
        return load_or_export("mtcnn-onet", _OutputNet, example, ("offset", "points", "prob"))

    @torch.inference_mode()
    def propose(self, rgb: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """P-Net and R-Net: of frames uint8 [T,H,W,3] the frame int64 [N] and box float [N,4] of what may be a face."""
        frames = rgb.to(self.device)
        levels = self._levels(frames)
        return self._reject(frames, levels, *self._propose(levels))

    @torch.inference_mode()
    def look(self, crops: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """O-Net: of squares uint8 [F,3,48,48] the box offsets [F,4], landmarks [F,10] and face probabilities [F]."""
        offset, points, prob = (out.float().cpu().numpy() for out in self._onet(crops.to(self.device)))
        return offset, points, prob

    def _propose(self, levels: list[_Level]) -> tuple[np.ndarray, np.ndarray]:
        """P-Net over the pyramid: frame_row int64 [N] and square boxes float [N,4]."""
        found = []
        for scale, level in levels:
            offset, prob = _pnet_forward(self._pnet, level)
            at, y, x = (prob >= THRESHOLDS[0]).nonzero(as_tuple=True)
            score = prob[at, y, x].cpu().numpy()
            corner = torch.stack([x, y], 1).cpu().numpy() * _PNET_STRIDE_PX
            box = np.concatenate([corner + 1, corner + _PNET_SIDE_PX], 1) / scale
            of_frame = at.cpu().numpy()
            kept = suppress(box, score, of_frame, _SAME_LEVEL_IOU)
            found.append((of_frame[kept], box[kept], score[kept], offset[at, :, y, x].cpu().numpy()[kept]))
        row, box, score, moves = (np.concatenate(parts) for parts in zip(*found, strict=True))
        kept = suppress(box, score, row, _SAME_FRAME_IOU)
        box = box[kept] + moves[kept] * np.tile(box[kept, 2:] - box[kept, :2], 2)
        return row[kept], square(box)

    def _reject(
        self, frames: Tensor, levels: list[_Level], row: np.ndarray, box: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """R-Net: keep the proposals that may be faces, and move their boxes."""
        if not len(row):
            return row, box
        low, side = box[:, :2] - 1, box[:, 2:] - box[:, :2] + 1
        wanted = _RNET_SIDE_PX / side[:, 0]
        crops = torch.empty(len(row), 3, _RNET_SIDE_PX, _RNET_SIDE_PX, device=self.device)
        crops = crops.contiguous(memory_format=torch.channels_last)
        levels = [(1.0, frames), *levels]
        # the smallest level that is still large enough: a face is then neither enlarged nor sampled with gaps
        level_of = np.maximum(np.searchsorted([-scale for scale, _ in levels], -wanted, side="right") - 1, 0)
        for i in np.unique(level_of):
            scale, level = levels[i]
            of_level = np.flatnonzero(level_of == i)
            region = np.concatenate([low[of_level], side[of_level]], 1) * scale
            crops[torch.from_numpy(of_level)] = _sample(level, row[of_level], region, _RNET_SIDE_PX)
        offset, prob = (out.cpu().numpy() for out in _rnet_forward(self._rnet, crops))
        passed = np.flatnonzero(prob > THRESHOLDS[1])
        passed = passed[suppress(box[passed], prob[passed], row[passed], _SAME_FRAME_IOU)]
        return row[passed], box[passed] + offset[passed] * np.tile(side[passed], 2)

    def _levels(self, frames: Tensor) -> list[_Level]:
        """The pyramid, from the smallest face's level to the largest's."""
        h, w = frames.shape[1:3]
        scale, levels = _PNET_SIDE_PX / self.settings.smallest_px(h, w), []
        whole = frames.permute(0, 3, 1, 2)  # [T,H,W,3] -> [T,3,H,W], strides as they were
        while min(h, w) * scale >= _PNET_SIDE_PX:
            size = (int(h * scale + 1), int(w * scale + 1))
            level = F.interpolate(whole, size=size, mode="bilinear", antialias=True)
            levels.append((scale, level.permute(0, 2, 3, 1)))
            scale *= PYRAMID_FACTOR
        return levels


def _load_weights(name: str, device: torch.device | str) -> Weights:
    """Weights of ``pnet``, ``rnet`` or ``onet`` from facenet-pytorch's package, without importing it.

    Pixels 0..255 go in: the normalisation (x - 127.5) / 128 becomes part of the first layer.
    """
    spec = importlib.util.find_spec("facenet_pytorch")
    if spec is None or spec.origin is None:
        raise ConfigError("MTCNN's weights are missing; pip install facenet-pytorch==2.5.3 --no-deps")
    path = Path(spec.origin).parent / "data" / f"{name}.pt"
    weights: Weights = torch.load(path, map_location=device, weights_only=True)
    first = weights["conv1.weight"]
    weights["conv1.bias"] = weights["conv1.bias"] - 127.5 / 128 * first.sum((1, 2, 3))
    weights["conv1.weight"] = first / 128
    if name == "pnet":  # convolutions whose channels do not fill a vector register are slow
        spare = _FULL_VECTOR - len(first)
        for key in ("conv1.weight", "conv1.bias", "prelu1.weight"):
            weights[key] = F.pad(weights[key], (0, 0) * (weights[key].dim() - 1) + (0, spare))
        weights["conv2.weight"] = F.pad(weights["conv2.weight"], (0, 0, 0, 0, 0, spare))
    # frames are laid out so; over a few channels it is several times faster than planes
    return {
        key: value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
        for key, value in weights.items()
    }


def _layer(weights: Weights, x: Tensor, i: int) -> Tensor:
    return F.prelu(F.conv2d(x, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"]), weights[f"prelu{i}.weight"])


def _dense(weights: Weights, x: Tensor, name: str) -> Tensor:
    return F.linear(x, weights[f"dense{name}.weight"], weights[f"dense{name}.bias"])


def _flatten(x: Tensor) -> Tensor:
    """The order in which the dense layers were trained, [N,C,H,W] -> [N,W*H*C]."""
    return x.permute(0, 3, 2, 1).flatten(1)


def _pnet_forward(weights: Weights, level: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [T,h,w,3] to box offsets [T,4,h',w'] and face probabilities [T,h',w']."""
    x = _layer(weights, level.permute(0, 3, 1, 2).float(), 1)  # [T,h,w,3] -> [T,3,h,w]
    x = _layer(weights, F.max_pool2d(x, 2, 2, ceil_mode=True), 2)
    x = _layer(weights, x, 3)
    logits = F.conv2d(x, weights["conv4_1.weight"], weights["conv4_1.bias"])
    return F.conv2d(x, weights["conv4_2.weight"], weights["conv4_2.bias"]), torch.sigmoid(logits[:, 1] - logits[:, 0])


def _rnet_forward(weights: Weights, crops: Tensor) -> tuple[Tensor, Tensor]:
    """float [N,3,24,24] in 0..255 to box offsets [N,4] and face probabilities [N]."""
    x = F.max_pool2d(_layer(weights, crops, 1), 3, 2, ceil_mode=True)
    x = F.max_pool2d(_layer(weights, x, 2), 3, 2, ceil_mode=True)
    x = _dense(weights, _flatten(_layer(weights, x, 3)), "4")
    x = F.prelu(x, weights["prelu4.weight"])
    return _dense(weights, x, "5_2"), torch.softmax(_dense(weights, x, "5_1"), 1)[:, 1]


class _OutputNet(nn.Module):
    """O-Net: uint8 [F,3,48,48] to box offsets [F,4], landmarks [F,10] (five x, five y) and probabilities [F]."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self._weights = _load_weights("onet", device)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = self._weights
        x = F.max_pool2d(_layer(weights, crops.float(), 1), 3, 2, ceil_mode=True)
        x = F.max_pool2d(_layer(weights, x, 2), 3, 2, ceil_mode=True)
        x = F.max_pool2d(_layer(weights, x, 3), 2, 2, ceil_mode=True)
        x = F.prelu(_dense(weights, _flatten(_layer(weights, x, 4)), "5"), weights["prelu5.weight"])
        prob = torch.softmax(_dense(weights, x, "6_1"), 1)[:, 1]
        return _dense(weights, x, "6_2"), _dense(weights, x, "6_3"), prob


def _sample(level: Tensor, row: np.ndarray, region: np.ndarray, side: int) -> Tensor:
    """Bilinear samples with repeated borders of all regions at once.

    Args:
        level: uint8 [T,h,w,3].
        row: int64 [N], the picture of each region.
        region: float [N,4]: left and top edge, width and height, in pixels of the level.
        side: of the result.

    Returns:
        float32 [N,3,side,side] in 0..255.
    """
    t, h, w, _ = level.shape
    at = (np.arange(side) + 0.5) / side
    x, y = (np.clip(region[:, i, None] + region[:, i + 2, None] * at - 0.5, 0, n - 1) for i, n in ((0, w), (1, h)))
    x0, y0 = x.astype(np.int64), y.astype(np.int64)
    x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
    fx, fy = (torch.from_numpy((v - v0).astype(np.float32)).to(level.device) for v, v0 in ((x, x0), (y, y0)))
    flat = level.reshape(t * h * w, 3)

    def gather(ys: np.ndarray, xs: np.ndarray) -> Tensor:
        index = (row[:, None] * h + ys)[:, :, None] * w + xs[:, None, :]
        return flat[torch.from_numpy(index).to(level.device)].float()  # [N,side,side,3]

    fx = fx[:, None, :, None]
    top = torch.lerp(gather(y0, x0), gather(y0, x1), fx)
    bottom = torch.lerp(gather(y1, x0), gather(y1, x1), fx)
    return torch.lerp(top, bottom, fy[:, :, None, None]).permute(0, 3, 1, 2)  # [N,side,side,3] -> [N,3,side,side]


def square(box: np.ndarray) -> np.ndarray:
    """Boxes [N,4] made square about their centres."""
    centre = (box[:, :2] + box[:, 2:]) / 2
    half = (box[:, 2:] - box[:, :2]).max(1, keepdims=True) / 2
    return np.concatenate([centre - half, centre + half], 1)


def suppress(
    box: np.ndarray, score: np.ndarray, group: np.ndarray, share: float, *, of_smaller: bool = False
) -> np.ndarray:
    """Non-maximum suppression: indices of the boxes that no stronger one of their group overlaps by more than a share
    of the union (or of the smaller box), strongest first. Of equal scores the earlier box wins."""
    order = np.lexsort((np.arange(len(score)), -score))
    shifted = box + (group * (np.abs(box).max(initial=0) * 2 + 2))[:, None]  # groups lie apart: no overlap
    x1, y1, x2, y2 = shifted[order].T
    area = (x2 - x1) * (y2 - y1)
    alive, kept = np.ones(len(order), bool), []
    for i in range(len(order)):
        if not alive[i]:
            continue
        kept.append(i)
        rest = i + 1 + np.flatnonzero(alive[i + 1 :])
        wide = np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest])
        high = np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest])
        shared = np.maximum(wide, 0) * np.maximum(high, 0)
        of = np.minimum(area[i], area[rest]) if of_smaller else area[i] + area[rest] - shared
        alive[rest[shared > share * of]] = False
    return order[np.array(kept, np.int64)]
