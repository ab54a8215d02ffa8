"""How much a face can be trusted to show an expression: its size, sharpness and turn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from pipelines.batches import AlignedFaces, Detections
from pipelines.settings import QualitySettings

__all__ = ["FaceQuality", "measure_quality"]

#: ITU-R BT.601 luma.
_LUMA = (0.299, 0.587, 0.114)
#: Added to the luma variance, in grey levels squared: keeps the noise of a flat crop from passing for detail.
_CONTRAST_FLOOR = (0.02 * 255) ** 2


@dataclass(frozen=True, repr=False)
class FaceQuality:
    """Measures of F faces, each float32 [F] but ``quality_ok``, bool [F].

    ``face_px``: square root of the box area, in frame pixels; unlike the distance between the eyes it does not
    shrink when a head turns, and it compares with the detector's smallest face.
    ``sharpness``: share of fine detail in the aligned crop, see :func:`measure_quality`.
    ``yaw_proxy``: how far the nose lies from the middle between the eyes, along the line through them, in half eye
    distances: 0 frontal, +1 below the eye on the picture's right, -1 below the one on its left; cut off at 2.
    ``roll_deg``: angle of the line through the eyes, -180 to 180; positive is clockwise in the picture.
    """

    face_px: np.ndarray
    sharpness: np.ndarray
    yaw_proxy: np.ndarray
    roll_deg: np.ndarray
    quality_ok: np.ndarray

    def __len__(self) -> int:
        return len(self.face_px)

    def __repr__(self) -> str:
        return f"FaceQuality({len(self)} faces, {int(self.quality_ok.sum())} ok)"


def measure_quality(faces: Detections, crops: AlignedFaces, settings: QualitySettings | None = None) -> FaceQuality:
    """Measure all faces of a batch at once.

    Sharpness is the variance of the 4-neighbour Laplacian of the crop's luma divided by the variance of the
    luma itself (Pech-Pacheco et al. 2000, doi 10.1109/ICPR.2000.903548, normalised here): brightness and contrast
    cancel, and a face that was enlarged to fill the crop scores as low as one out of focus. Values compare only
    between crops of the same contract.

    Args:
        faces: F faces in frame pixels.
        crops: the same faces as the network sees them.
        settings: limits of ``quality_ok``.
    """
    limits = settings or QualitySettings()
    if len(faces) != len(crops):
        raise ValueError(f"{len(faces)} faces but {len(crops)} crops")
    sides = faces.box_xyxy_px[:, 2:] - faces.box_xyxy_px[:, :2]
    face_px = np.sqrt(np.clip(sides, 0, None).prod(1))
    sharpness = _sharpness(crops.pixels)
    yaw_proxy, roll_deg = _head_pose(faces.landmarks_px)
    ok = (face_px >= limits.min_face_px) & (np.abs(yaw_proxy) <= limits.max_abs_yaw)
    ok &= sharpness >= limits.min_sharpness
    return FaceQuality(face_px, sharpness, yaw_proxy, roll_deg, ok)


def _sharpness(pixels: torch.Tensor) -> np.ndarray:
    """uint8 [F,C,S,S] -> float32 [F]."""
    if len(pixels) == 0:
        return np.zeros(0, np.float32)
    luma = pixels.float()
    if pixels.shape[1] == 3:
        luma = (luma * luma.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)  # [F,3,S,S] -> [F,1,S,S]
    kernel = luma.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    detail = F.conv2d(luma, kernel).flatten(1).var(1, correction=0)
    contrast = luma[:, :, 1:-1, 1:-1].flatten(1).var(1, correction=0)
    return (detail / (contrast + _CONTRAST_FLOOR)).cpu().numpy()


def _head_pose(landmarks_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Yaw proxy and roll in degrees, both float32 [F], from landmarks [F,5,2]."""
    left, right, nose = (landmarks_px[:, i] for i in range(3))
    axis = right - left
    length_sq = np.maximum((axis**2).sum(1), 1e-6)
    yaw_proxy = 2 * ((nose - (left + right) / 2) * axis).sum(1) / length_sq
    roll_deg = np.degrees(np.arctan2(axis[:, 1], axis[:, 0]))
    return np.clip(yaw_proxy, -2, 2).astype(np.float32), roll_deg.astype(np.float32)
