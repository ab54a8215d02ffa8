"""What cutting faces out of arrays and out of tensors has in common: which pixels, and how they are weighed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["LUMA", "PatchPlan"]

#: ITU-R BT.601 luma, which is also what Pillow's "L" is.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class PatchPlan:
    """The part of its picture that each of F faces is sampled from.

    box_px int64 [F,4]: x0, y0, x1, y1 of the patch; block int64 [F]: so many pixels a side are averaged before the
    patch is sampled; patch_from_crop float64 [F,2,3] maps crop pixels to pixels of the averaged patch.
    """

    box_px: np.ndarray
    block: np.ndarray
    patch_from_crop: np.ndarray

    @classmethod
    def of(cls, size_px: np.ndarray, crop_from_frame: np.ndarray, side: int) -> PatchPlan:
        """Plan the patches of faces in pictures of so many rows and columns, int [F,2]."""
        a, b, tx, c, d, ty = np.asarray(crop_from_frame, np.float64).transpose(1, 2, 0).reshape(6, -1)
        det = a * d - b * c
        det = np.where(np.abs(det) < 1e-12, 1e-12, det)
        frame_from_crop = (
            np.stack([d, -b, b * ty - d * tx, -c, a, c * tx - a * ty]).T.reshape(-1, 2, 3) / det[:, None, None]
        )
        scale = np.maximum(np.rint(1 / np.sqrt(np.abs(det))), 1).astype(np.int64)  # frame pixels per crop pixel
        corners = np.array([[0, 0, 1], [side - 1, 0, 1], [0, side - 1, 1], [side - 1, side - 1, 1]], dtype=np.float64)
        reach = np.einsum("fij,kj->fki", frame_from_crop, corners)  # [F,4,2]
        block = np.minimum(scale, size_px.min(1))
        size_xy, room = size_px[:, ::-1], block[:, None]
        low = np.clip(np.floor(reach.min(1)) - scale[:, None], 0, size_xy - room)
        high = np.clip(np.ceil(reach.max(1)) + scale[:, None] + 1, low + room, size_xy)
        # Patch pixel p covers frame pixels low + k*p .. low + k*(p+1) - 1, so its centre is there plus (k-1)/2.
        patch_from_crop = frame_from_crop
        patch_from_crop[:, :, 2] -= low + (room - 1) / 2
        patch_from_crop /= room[:, :, None]
        return cls(np.concatenate([low, high], 1).astype(np.int64), block, patch_from_crop)
