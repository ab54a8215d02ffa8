"""The crop contract: one function makes every face that the network ever sees.

Training, evaluation, analysis, labelling and Grad-CAM all warp a face with :func:`warp_faces` by the matrix of
:func:`align_matrix`. The settings are part of a model's card and of an analysis' identity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mfer.card import CropContract

__all__ = ["LUMA", "align_matrix", "normalise", "warp_faces"]

#: ITU-R BT.601 luma, which is also what Pillow's "L" is.
LUMA = (0.299, 0.587, 0.114)


def align_matrix(landmarks_px: np.ndarray, crop: CropContract) -> np.ndarray:
    """Similarity transforms that bring five landmarks nearest to the template, in the least-squares sense.

    Args:
        landmarks_px: float [F,5,2], frame pixels.
        crop: the contract whose template is aimed at.

    Returns:
        crop_from_frame float32 [F,2,3]. Rotation, one scale and a shift, no reflection: the closed form of
        Umeyama (1991) in two dimensions. Degenerate landmarks (all on one point) give a finite matrix.
    """
    source = np.asarray(landmarks_px, dtype=np.float64)
    target = crop.template_px()
    source_mean, target_mean = source.mean(1, keepdims=True), target.mean(0)
    s, t = source - source_mean, target - target_mean
    spread = np.maximum((s**2).sum((1, 2)), 1e-6)
    a = (s * t).sum((1, 2)) / spread
    b = (s[..., 0] * t[:, 1] - s[..., 1] * t[:, 0]).sum(1) / spread
    matrix = np.empty((len(source), 2, 3))
    matrix[:, 0, 0], matrix[:, 0, 1] = a, -b
    matrix[:, 1, 0], matrix[:, 1, 1] = b, a
    matrix[:, :, 2] = target_mean - np.einsum("fij,fj->fi", matrix[:, :, :2], source_mean[:, 0])
    return matrix.astype(np.float32)


def warp_faces(
    frames: Tensor | Sequence[Tensor], frame_row: np.ndarray, crop_from_frame: np.ndarray, crop: CropContract
) -> Tensor:
    """Cut faces out of frames.

    Args:
        frames: uint8 [T,H,W,C] with C 1 or 3, or a sequence of uint8 [H,W,C] of differing sizes.
        frame_row: int64 [F], the frame of each face.
        crop_from_frame: float32 [F,2,3], maps frame pixels to crop pixels (any affine map of full rank).
        crop: the contract.

    Returns:
        uint8 [F,C,S,S] on the frames' device. Grey contracts turn RGB into BT.601 luma.
    """
    side = crop.side_px
    n_faces = len(frame_row)
    device = frames[0].device if len(frames) else torch.device("cpu")
    if n_faces == 0:
        return torch.zeros(0, crop.channels, side, side, dtype=torch.uint8, device=device)

    a, b, tx, c, d, ty = np.asarray(crop_from_frame, np.float64).transpose(1, 2, 0).reshape(6, -1)
    det = a * d - b * c
    det = np.where(np.abs(det) < 1e-12, 1e-12, det)
    frame_from_crop = (
        np.stack([d, -b, b * ty - d * tx, -c, a, c * tx - a * ty]).T.reshape(-1, 2, 3) / det[:, None, None]
    )
    block = np.maximum(np.rint(1 / np.sqrt(np.abs(det))), 1).astype(int)  # frame pixels per crop pixel

    if isinstance(frames, Tensor) and block.max() == 1 and frames.shape[1] * frames.shape[2] <= 4 * side * side:
        whole = frames[torch.as_tensor(frame_row, device=device)]  # labelled faces: the picture is the patch
        return _sample(_colour(whole.movedim(-1, -3).float(), crop.channels), None, frame_from_crop, side)

    corners = np.array([[0, 0, 1], [side - 1, 0, 1], [0, side - 1, 1], [side - 1, side - 1, 1]], dtype=np.float64)
    reach = np.einsum("fij,kj->fki", frame_from_crop, corners)  # [F,4,2]
    low = np.floor(reach.min(1)) - block[:, None]
    high = np.ceil(reach.max(1)) + block[:, None] + 1

    patches: list[Tensor] = []
    origin = np.zeros((n_faces, 2))
    for i in range(n_faces):
        picture = frames[int(frame_row[i])]
        height, width = picture.shape[:2]
        k = min(int(block[i]), height, width)
        block[i] = k
        x0, y0 = (int(np.clip(low[i, j], 0, size - k)) for j, size in ((0, width), (1, height)))
        x1, y1 = (int(np.clip(high[i, j], at + k, size)) for j, at, size in ((0, x0, width), (1, y0, height)))
        origin[i] = x0, y0
        patch = picture[y0:y1, x0:x1].movedim(-1, -3).float()  # [h,w,C] -> [C,h,w]
        if k > 1:
            patch = F.avg_pool2d(patch[None], k, ceil_mode=True, count_include_pad=False)[0]
        patches.append(_colour(patch, crop.channels))  # after averaging: there are fewer pixels to weigh

    # Patch pixel p covers frame pixels origin + k*p .. origin + k*(p+1) - 1, so its centre is there plus (k-1)/2.
    patch_from_crop = frame_from_crop.copy()
    patch_from_crop[:, :, 2] -= origin + (block[:, None] - 1) / 2
    patch_from_crop /= block[:, None, None]
    sizes = np.array([[p.shape[2], p.shape[1]] for p in patches])
    wide, high = sizes.max(0)
    stack = torch.stack([F.pad(p, (0, wide - p.shape[2], 0, high - p.shape[1])) for p in patches])  # [F,C,h,w]
    return _sample(stack, sizes, patch_from_crop, side)


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


def normalise(pixels: Tensor, crop: CropContract) -> Tensor:
    """uint8 crops [F,C,S,S] -> float32 network input."""
    return pixels.float().div_(255).sub_(crop.mean).div_(crop.std)
