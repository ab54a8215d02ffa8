"""``mfer.crop.warp_faces`` for tensors: training cuts thousands of small faces at once, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mfer.card import CropContract
from mfer.patches import LUMA, PatchPlan

__all__ = ["warp_tensors"]


def warp_tensors(
    frames: Tensor | Sequence[Tensor], frame_row: np.ndarray, crop_from_frame: np.ndarray, crop: CropContract
) -> Tensor:
    """See ``warp_faces``."""
    side = crop.side_px
    device = frames[0].device if len(frames) else torch.device("cpu")
    if len(frame_row) == 0:
        return torch.zeros(0, crop.channels, side, side, dtype=torch.uint8, device=device)
    sizes = np.array([frames[int(row)].shape[:2] for row in frame_row])
    plan = PatchPlan.of(sizes, crop_from_frame, side)
    if isinstance(frames, Tensor) and plan.block.max() == 1 and frames.shape[1] * frames.shape[2] <= 4 * side * side:
        frame_from_crop = plan.patch_from_crop.copy()  # labelled faces: the picture is the patch
        frame_from_crop[:, :, 2] += plan.box_px[:, :2]
        whole = frames[torch.as_tensor(frame_row, device=device)]
        return _sample(_colour(whole.movedim(-1, -3).float(), crop.channels), None, frame_from_crop, side)
    patches: list[Tensor] = []
    for row, (x0, y0, x1, y1), block in zip(frame_row.tolist(), plan.box_px.tolist(), plan.block.tolist(), strict=True):
        patch = frames[row][y0:y1, x0:x1].movedim(-1, -3).float()  # [h,w,C] -> [C,h,w]
        if block > 1:
            patch = F.avg_pool2d(patch[None], block, ceil_mode=True, count_include_pad=False)[0]
        patches.append(_colour(patch, crop.channels))  # after averaging: there are fewer pixels to weigh
    shapes = np.array([[p.shape[2], p.shape[1]] for p in patches])
    wide, high = shapes.max(0)
    stack = torch.stack([F.pad(p, (0, wide - p.shape[2], 0, high - p.shape[1])) for p in patches])  # [F,C,h,w]
    return _sample(stack, shapes, plan.patch_from_crop, side)


def _colour(patch: Tensor, channels: int) -> Tensor:
    """float32 [...,C,h,w] -> [...,channels,h,w], 0..255."""
    if patch.shape[-3] == channels:
        return patch
    if channels == 3:
        return patch.expand(*patch.shape[:-3], 3, -1, -1)
    return (patch * patch.new_tensor(LUMA)[:, None, None]).sum(-3, keepdim=True)


def _sample(stack: Tensor, sizes: np.ndarray | None, patch_from_crop: np.ndarray, side: int) -> Tensor:
    """Bilinear samples with repeated borders, float [F,C,h,w] -> uint8 [F,C,S,S]; ``sizes`` [F,2] says how much of
    each patch is real where the rest is padding."""
    device = stack.device
    high, wide = stack.shape[2:]
    matrix = torch.as_tensor(patch_from_crop, dtype=torch.float32, device=device)
    at = torch.arange(side, dtype=torch.float32, device=device)
    grid = (
        matrix[:, None, None, :, 0] * at[None, None, :, None]
        + matrix[:, None, None, :, 1] * at[None, :, None, None]
        + matrix[:, None, None, :, 2]
    )  # [F,S,S,2], patch pixels
    if sizes is not None:  # the border repeats at the patch's own edge, not at the padding's
        grid = torch.minimum(grid, torch.as_tensor(sizes - 1, dtype=torch.float32, device=device)[:, None, None])
    scale = torch.tensor([max(wide - 1, 1), max(high - 1, 1)], dtype=torch.float32, device=device)
    sampled = F.grid_sample(stack, grid / scale * 2 - 1, mode="bilinear", padding_mode="border", align_corners=True)
    return (sampled + 0.5).clamp_(0, 255).to(torch.uint8)
