"""MTCNN's first two networks over a whole batch, and its third on what they propose.

Weights, thresholds and suppression are facenet-pytorch's; only the layout of the work differs. All proposals
of a batch are cut and resized at once, each from the level of the pyramid whose scale fits; ties are broken by order,
so that a frame's faces do not depend on its neighbours. The networks themselves are in ``mtcnn_modules.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import numpy as np

from pipelines.faces.detectors import LARGE_FACE, DetectorSettings
from pipelines.scoring.onnx import load_or_export
from pipelines.video.resize import pyramid

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ONET_SIDE_PX", "PYRAMID_FACTOR", "THRESHOLDS", "MtcnnNetworks", "square", "suppress"]

_PNET_SIDE_PX, _PNET_STRIDE_PX, _RNET_SIDE_PX, ONET_SIDE_PX = 12, 2, 24, 48
#: Overlaps above which the weaker of two boxes is dropped: within a level, and within a frame.
_SAME_LEVEL_IOU, _SAME_FRAME_IOU = 0.5, 0.7
#: facenet-pytorch's: least probabilities of P-Net and R-Net, and the scale from one level of the pyramid to the next.
THRESHOLDS, PYRAMID_FACTOR = (0.6, 0.7), 0.709
#: Bump when ``mtcnn_modules.py`` gives other networks.
_NETWORKS_VERSION = 2
#: Crops in one pass through R-Net and O-Net on a CPU.
_CROPS_AT_ONCE = 16
#: Boxes whose overlaps with all weaker ones are computed at once.
_BOXES_AT_ONCE = 64
#: Crops in one pass on a GPU, and pictures in one pass through P-Net there.
_AT_ONCE_ON_GPU = 1024

_Level = tuple[float, np.ndarray]  # scale, and uint8 [T,h,w,3]
_Net = Callable[[np.ndarray], tuple[np.ndarray, ...]]


class MtcnnNetworks:
    """P-Net, R-Net and O-Net (Zhang et al. 2016, doi 10.1109/LSP.2016.2603342).

    Args:
        settings: the smallest face.
        device: where the networks run; on a CPU that is ONNX Runtime.
    """

    def __init__(self, settings: DetectorSettings, device: str = "cpu") -> None:
        self.settings = settings
        self._device = device

    @cached_property
    def _pnet(self) -> _Net:
        example = np.zeros((2, 4 * _PNET_SIDE_PX, 4 * _PNET_SIDE_PX, 3), np.uint8)
        return self._load("ProposalNet", example, ("offset", "prob"), 1, free_axes=(0, 1, 2))

    @cached_property
    def _rnet(self) -> _Net:
        example = np.zeros((2, _RNET_SIDE_PX, _RNET_SIDE_PX, 3), np.float32)
        return self._load("RefineNet", example, ("offset", "prob"), _CROPS_AT_ONCE)

    @cached_property
    def _onet(self) -> _Net:
        example = np.zeros((2, 3, ONET_SIDE_PX, ONET_SIDE_PX), np.uint8)
        return self._load("OutputNet", example, ("offset", "points", "prob"), _CROPS_AT_ONCE)

    def _load(
        self,
        name: str,
        example: np.ndarray,
        outputs: tuple[str, ...],
        rows_at_once: int,
        free_axes: tuple[int, ...] = (0,),
    ) -> _Net:
        def make() -> nn.Module:
            net: nn.Module = resolve_name(f"pipelines.faces.mtcnn_modules:{name}")()  # late: it loads PyTorch
            return net

        if self._device == "cpu":
            return load_or_export(
                f"mtcnn-{name}-{_NETWORKS_VERSION}",
                make,
                example,
                outputs,
                rows_at_once=rows_at_once,
                free_axes=free_axes,
            )
        from pipelines.scoring.torch_net import TorchNet

        return TorchNet(make(), self._device, _AT_ONCE_ON_GPU)

    def propose(self, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """P-Net and R-Net: of frames uint8 [T,H,W,3] the frame int64 [N] and box float [N,4] of what may be a face."""
        return self._propose_from(rgb, 0)

    def propose_large(self, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``propose`` without the levels of faces below ``LARGE_FACE`` times the smallest side."""
        return self._propose_from(rgb, int(math.log(LARGE_FACE, 1 / PYRAMID_FACTOR)))

    def _propose_from(self, rgb: np.ndarray, first_level: int) -> tuple[np.ndarray, np.ndarray]:
        levels = self._levels(rgb)
        if len(levels) <= first_level:
            return np.zeros(0, np.int64), np.zeros((0, 4))
        return self._reject(rgb, levels, *self._propose(levels[first_level:]))

    def look(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """O-Net: of squares uint8 [F,3,48,48] the box offsets [F,4], landmarks [F,10] and face probabilities [F]."""
        offset, points, prob = self._onet(crops)
        return offset, points, prob

    def _propose(self, levels: list[_Level]) -> tuple[np.ndarray, np.ndarray]:
        """P-Net over the pyramid: frame_row int64 [N] and square boxes float [N,4]."""
        found = []
        for scale, level in levels:
            offset, prob = self._pnet(level)
            at, y, x = (prob >= THRESHOLDS[0]).nonzero()
            score = prob[at, y, x]
            corner = np.stack([x, y], 1) * _PNET_STRIDE_PX
            box = np.concatenate([corner + 1, corner + _PNET_SIDE_PX], 1) / scale
            kept = suppress(box, score, at, _SAME_LEVEL_IOU)
            found.append((at[kept], box[kept], score[kept], offset[at, :, y, x][kept]))
        row, box, score, moves = (np.concatenate(parts) for parts in zip(*found, strict=True))
        kept = suppress(box, score, row, _SAME_FRAME_IOU)
        box = box[kept] + moves[kept] * np.tile(box[kept, 2:] - box[kept, :2], 2)
        return row[kept], square(box)

    def _reject(
        self, frames: np.ndarray, levels: list[_Level], row: np.ndarray, box: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """R-Net: keep the proposals that may be faces, and move their boxes."""
        if not len(row):
            return row, box
        low, side = box[:, :2] - 1, box[:, 2:] - box[:, :2] + 1
        wanted = _RNET_SIDE_PX / side[:, 0]
        crops = np.empty((len(row), _RNET_SIDE_PX, _RNET_SIDE_PX, 3), np.float32)
        levels = [(1.0, frames), *levels]
        # the smallest level that is still large enough: a face is then neither enlarged nor sampled with gaps
        level_of = np.maximum(np.searchsorted([-scale for scale, _ in levels], -wanted, side="right") - 1, 0)
        for i in np.unique(level_of):
            scale, level = levels[i]
            of_level = np.flatnonzero(level_of == i)
            region = np.concatenate([low[of_level], side[of_level]], 1) * scale
            crops[of_level] = _sample(level, row[of_level], region, _RNET_SIDE_PX)
        offset, prob = self._rnet(crops)
        passed = np.flatnonzero(prob > THRESHOLDS[1])
        passed = passed[suppress(box[passed], prob[passed], row[passed], _SAME_FRAME_IOU)]
        return row[passed], box[passed] + offset[passed] * np.tile(side[passed], 2)

    def _levels(self, frames: np.ndarray) -> list[_Level]:
        """The pyramid, from the smallest face's level to the largest's."""
        h, w = frames.shape[1:3]
        scales, scale = list[float](), _PNET_SIDE_PX / self.settings.smallest_px(h, w)
        while min(h, w) * scale >= _PNET_SIDE_PX:
            scales.append(scale)
            scale *= PYRAMID_FACTOR
        sizes_px = [(int(h * scale + 1), int(w * scale + 1)) for scale in scales]
        return list(zip(scales, pyramid(frames, sizes_px), strict=True))


def _sample(level: np.ndarray, row: np.ndarray, region: np.ndarray, side: int) -> np.ndarray:
    """Bilinear samples with repeated borders of all regions at once.

    Args:
        level: uint8 [T,h,w,3].
        row: int64 [N], the picture of each region.
        region: float [N,4]: left and top edge, width and height, in pixels of the level.
        side: of the result.

    Returns:
        float32 [N,side,side,3] in 0..255.
    """
    h, w = level.shape[1:3]
    at = (np.arange(side) + 0.5) / side
    x, y = (np.clip(region[:, i, None] + region[:, i + 2, None] * at - 0.5, 0, n - 1) for i, n in ((0, w), (1, h)))
    x0, y0 = x.astype(np.int64), y.astype(np.int64)
    x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
    fx, fy = ((v - v0).astype(np.float32) for v, v0 in ((x, x0), (y, y0)))
    flat, channel = level.reshape(-1), np.arange(3)
    column0, column1 = ((v[:, None, :, None] * 3 + channel).reshape(len(row), 1, -1) for v in (x0, x1))
    fx, fy = np.repeat(fx, 3, 1)[:, None], fy[:, :, None]

    def between(ys: np.ndarray) -> np.ndarray:
        line = ((row[:, None] * h + ys) * (w * 3))[:, :, None]
        left, right = (flat.take(line + column).astype(np.float32) for column in (column0, column1))
        return left + (right - left) * fx  # [N,side,side*3]

    top = between(y0)
    return (top + (between(y1) - top) * fy).reshape(-1, side, side, 3)


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
    x1, y1, x2, y2 = box[order].T
    area, group = (x2 - x1) * (y2 - y1), group[order]
    alive = np.ones(len(order), bool)
    for start in range(0, len(order), _BOXES_AT_ONCE):
        rows, rest = (start + np.flatnonzero(part) for part in (alive[start : start + _BOXES_AT_ONCE], alive[start:]))
        wide = np.minimum(x2[rows, None], x2[rest]) - np.maximum(x1[rows, None], x1[rest])
        high = np.minimum(y2[rows, None], y2[rest]) - np.maximum(y1[rows, None], y1[rest])
        shared = np.maximum(wide, 0) * np.maximum(high, 0)
        of = np.minimum(area[rows, None], area[rest]) if of_smaller else area[rows, None] + area[rest] - shared
        overlaps = (shared > share * of) & (group[rows, None] == group[rest])
        for i, row in enumerate(rows):
            if alive[row]:
                alive[rest[i + 1 :][overlaps[i, i + 1 :]]] = False
    return order[alive]
