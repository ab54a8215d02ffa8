"""The crop contract: one function makes every face that the network ever sees.

Training, evaluation, analysis, labelling and Grad-CAM all warp a face with :func:`warp_faces` by the matrix of
:func:`align_matrix`. The settings are part of a model's card and of an analysis' identity. Quick to import: arrays are
cut by numpy; only tensors, which training has, are cut by PyTorch (``mfer/crop_tensors.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, cast, overload

import numpy as np

from mfer.card import CropContract
from mfer.patches import LUMA, PatchPlan

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LUMA", "align_matrix", "normalise", "warp_faces"]

#: Samples that are worked on at once: what they take stays in a core's cache.
_SAMPLES_AT_ONCE = 16_384

Pixels = TypeVar("Pixels", "np.ndarray", "Tensor")


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


@overload
def warp_faces(
    frames: np.ndarray | Sequence[np.ndarray], frame_row: np.ndarray, crop_from_frame: np.ndarray, crop: CropContract
) -> np.ndarray: ...
@overload
def warp_faces(
    frames: Tensor | Sequence[Tensor], frame_row: np.ndarray, crop_from_frame: np.ndarray, crop: CropContract
) -> Tensor: ...
def warp_faces(
    frames: np.ndarray | Tensor | Sequence[np.ndarray] | Sequence[Tensor],
    frame_row: np.ndarray,
    crop_from_frame: np.ndarray,
    crop: CropContract,
) -> np.ndarray | Tensor:
    """Cut faces out of frames.

    Args:
        frames: uint8 [T,H,W,C] with C 1 or 3, or a sequence of uint8 [H,W,C] of differing sizes; arrays or tensors.
        frame_row: int64 [F], the frame of each face.
        crop_from_frame: float32 [F,2,3], maps frame pixels to crop pixels (any affine map of full rank).
        crop: the contract.

    Returns:
        uint8 [F,C,S,S], an array of arrays; of tensors a tensor on their device. Grey contracts turn RGB into BT.601
        luma.
    """
    if not isinstance(frames, np.ndarray) and not (len(frames) and isinstance(frames[0], np.ndarray)):
        from mfer.crop_tensors import warp_tensors  # late: it loads PyTorch

        return warp_tensors(cast("Tensor | Sequence[Tensor]", frames), frame_row, crop_from_frame, crop)
    side = crop.side_px
    if len(frame_row) == 0:
        return np.zeros((0, crop.channels, side, side), np.uint8)
    arrays = cast(Sequence[np.ndarray], frames)
    pictures = [arrays[int(row)] for row in frame_row]
    plan = PatchPlan.of(np.array([picture.shape[:2] for picture in pictures]), crop_from_frame, side)
    patches = [
        _block_means(picture[y0:y1, x0:x1], block, crop.channels)
        for picture, (x0, y0, x1, y1), block in zip(pictures, plan.box_px.tolist(), plan.block.tolist(), strict=True)
    ]
    return _sample(patches, plan.patch_from_crop, side)


def _block_means(picture: np.ndarray, k: int, channels: int) -> np.ndarray:
    """Means of k x k pixels, uint8 [h,w,C] -> float32 [h/k,w/k,channels]; those at the far edges are of what is left
    there."""
    height, width, given = picture.shape
    colours = np.eye(channels, dtype=np.float32)  # what a channel of the picture gives to each of the crop
    if given != channels:
        colours = np.ones((1, 3), np.float32) if channels == 3 else np.array(LUMA, np.float32)[:, None]
    if k == 1:
        pixels = picture.astype(np.float32)
        return pixels if given == channels else pixels @ colours
    n_y, n_x = -(-height // k), -(-width // k)
    # Whole numbers are added exactly and without a copy of the picture; what is left then, columns and colours, is one
    # matrix product.
    rows = np.zeros((n_y, width, given), np.uint16 if 255 * k <= np.iinfo(np.uint16).max else np.uint32)
    for i in range(k):
        some = picture[i::k]
        rows[: len(some)] += some
    blocks = np.zeros((n_y, n_x * k, given), np.float32)
    blocks[:, :width] = rows
    sums = blocks.reshape(n_y, n_x, k * given) @ np.tile(colours, (k, 1))
    lines, columns = (np.minimum(n - np.arange(0, n, k), k) for n in (height, width))
    return np.asarray(sums / (lines[:, None] * columns)[:, :, None].astype(np.float32))


def _sample(patches: list[np.ndarray], patch_from_crop: np.ndarray, side: int) -> np.ndarray:
    """Bilinear samples with repeated borders of all patches, float32 F x [h,w,C] -> uint8 [F,C,S,S]."""
    sampled = np.empty((len(patches), side, side, patches[0].shape[2]), np.uint8)
    at_once = max(_SAMPLES_AT_ONCE // side**2, 1)
    for start in range(0, len(patches), at_once):
        some = slice(start, start + at_once)
        sampled[some] = _bilinear(patches[some], patch_from_crop[some].astype(np.float32), side)
    return sampled.transpose(0, 3, 1, 2)  # [F,S,S,C] -> [F,C,S,S]


def _bilinear(patches: list[np.ndarray], matrix: np.ndarray, side: int) -> np.ndarray:
    """float32 F x [h,w,C] and float32 [F,2,3] -> float32 [F,S,S,C], rounded to whole numbers by the next cast."""
    size = np.array([patch.shape[:2] for patch in patches])
    width, channels = size[:, 1, None, None], patches[0].shape[2]
    pixels = np.concatenate([patch.reshape(-1, channels) for patch in patches])
    first = np.concatenate([[0], size.prod(1).cumsum()[:-1]])[:, None, None]
    at = np.arange(side, dtype=np.float32)

    def positions(axis: int) -> tuple[np.ndarray, np.ndarray]:
        """The pixel before each sample, int64 [F,S,S], and how far beyond it the sample lies."""
        along, across, shift = (matrix[:, axis, i, None] for i in range(3))
        place = (along * at)[:, None, :] + (across * at + shift)[:, :, None]
        place = place.clip(0, (size[:, 1 - axis, None, None] - 1).astype(np.float32), out=place)
        whole = place.astype(np.int64)
        place -= whole
        return whole, place

    (x, dx), (y, dy) = positions(0), positions(1)
    corner = first + y * width + x
    right, below = (dx > 0).astype(np.int64), (dy > 0) * width  # a sample on a pixel needs no neighbour
    if channels == 1:  # numpy takes single numbers several times as fast as rows of one
        pixels = pixels[:, 0]
    else:
        dx, dy = dx[..., None], dy[..., None]

    def between(left: np.ndarray) -> np.ndarray:
        start = pixels.take(left, 0)
        step = pixels.take(left + right, 0)
        step -= start
        step *= dx
        step += start
        return step

    sampled = between(corner)
    step = between(corner + below)
    step -= sampled
    step *= dy
    sampled += step
    sampled += np.float32(0.5)
    return sampled.clip(0, 255, out=sampled).reshape(len(patches), side, side, channels)


def normalise(pixels: Pixels, crop: CropContract) -> Pixels:
    """uint8 crops [F,C,S,S] -> float32 network input."""
    if isinstance(pixels, np.ndarray):
        return (pixels / np.float32(255) - np.float32(crop.mean)) / np.float32(crop.std)
    return pixels.float().div_(255).sub_(crop.mean).div_(crop.std)
