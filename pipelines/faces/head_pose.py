"""How a head is turned, from five landmarks and a generic head."""

from __future__ import annotations

import numpy as np

__all__ = ["GENERIC_HEAD", "head_pose"]

#: Left eye, right eye, nose, left and right corner of the mouth of a frontal head, in distances between its eyes:
#: right, down and away in the picture. Across and down are means of upright frontal faces. The depths are those that
#: the detector's landmarks show: a nose of 0.6, as measured on people, would understate turns by a sixth
#: (benchmarks/head_pose.py).
GENERIC_HEAD = np.array(
    [[-0.5, 0, 0], [0.5, 0, 0], [0, 0.56, -0.5], [-0.41, 1.11, -0.1], [0.41, 1.11, -0.1]], np.float64
)
_CENTRED = GENERIC_HEAD - GENERIC_HEAD.mean(0)
_FIT = np.linalg.pinv(_CENTRED)  # [3,5]
#: Beyond these a landmark is hidden, and the detector guesses it.
_MAX_YAW_DEG, _MAX_PITCH_DEG, _MAX_ROLL_DEG = 60.0, 45.0, 45.0
#: Root mean square distance of the landmarks from those of the turned generic head, in distances between its eyes.
#: Faces of eight clips: 95 % lie below 0.09, in a clip with hands before the face below 0.14.
_MAX_MISFIT = 0.2
#: Eyes nearer to each other than this cannot be told apart.
_MIN_EYES_PX = 2.0


def head_pose(landmarks_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Yaw and pitch of heads in degrees, both float32 [F]; NaN where they cannot be trusted.

    The landmarks are fitted by an affine image of the generic head, seen from afar, and the angles are read off its
    two rows, after a turn that levels the eyes (the head's roll). Only ratios within a row count, so neither the size
    of the face nor its length matters. Yaw is positive to the right of the picture and pitch is positive upwards. A
    head nods first, then turns, then tilts.

    Args:
        landmarks_px: float [F,5,2], in the order of ``Detections``.
    """
    points = np.asarray(landmarks_px, np.float64)
    points = points - points.mean(1, keepdims=True)
    affine = np.einsum("kj,fji->fik", _FIT, points)  # [F,2,3]
    roll = np.arctan2(affine[:, 1, 0], affine[:, 0, 0])
    level = np.stack([np.cos(roll), np.sin(roll), -np.sin(roll), np.cos(roll)], 1).reshape(-1, 2, 2)
    affine, points = level @ affine, points @ level.transpose(0, 2, 1)
    pitch = np.arctan2(affine[:, 1, 2], affine[:, 1, 1])
    yaw = np.arctan2(-affine[:, 0, 2], affine[:, 0, 0] * np.cos(pitch))
    degrees = np.degrees(np.stack([yaw, pitch, roll], 1))
    misfit, eyes_px = _misfit(points, yaw, pitch)
    trusted = (np.abs(degrees) <= (_MAX_YAW_DEG, _MAX_PITCH_DEG, _MAX_ROLL_DEG)).all(1)
    trusted &= (misfit <= _MAX_MISFIT) & (eyes_px >= _MIN_EYES_PX)
    degrees = np.where(trusted[:, None], degrees, np.nan).astype(np.float32)
    return degrees[:, 0], degrees[:, 1]


def _misfit(points: np.ndarray, yaw: np.ndarray, pitch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Misfit of level, centred points [F,5,2] in eye distances, and the eye distance in px, were the head frontal."""
    zero, sin_yaw, sin_pitch, cos_pitch = np.zeros_like(yaw), np.sin(yaw), np.sin(pitch), np.cos(pitch)
    rows = np.stack([np.cos(yaw), sin_yaw * sin_pitch, -sin_yaw * cos_pitch, zero, cos_pitch, sin_pitch], 1)
    head = np.einsum("fik,jk->fji", rows.reshape(-1, 2, 3), _CENTRED)
    scale = (points * head).sum((1, 2)) / (head**2).sum((1, 2))
    away = np.sqrt(((points - scale[:, None, None] * head) ** 2).sum(2).mean(1))
    return away / np.maximum(scale, 1e-6), scale
