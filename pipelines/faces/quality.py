"""How far the scores of a face can be trusted: its size, sharpness, brightness, turn and tilt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mfer.card import CropContract
from mfer.crop import LUMA
from pipelines.batches import AlignedFaces, Detections
from pipelines.faces.detectors import Detector
from pipelines.faces.head_pose import head_pose
from pipelines.faces.settings import QualitySettings

__all__ = ["QUALITY_CROP", "FaceQuality", "UprightCheck", "measure_quality"]

#: The crop that faces are measured in, whatever the model's own, so that the measures of all models compare.
QUALITY_CROP = CropContract(side_px=40)

#: Added to the luma variance, in grey levels squared: keeps the noise of a flat crop from passing for detail.
_CONTRAST_FLOOR = (0.02 * 255) ** 2
#: A face that the detector is as sure of, with eyes as level, stands upright: only the others are looked at again. Of
#: 87 faces of nine clips and a photograph that lay on their side or stood on their head none was so sure, of 73 upright
#: ones 82 %.
_SURE_PROB, _LEVEL_DEG = 0.999, 25.0
#: An upright crop with such a probability is not compared with itself on its side and on its head.
_SURE_UPRIGHT_PROB = 0.995


@dataclass(frozen=True, repr=False, kw_only=True)
class FaceQuality:
    """Measures of F faces, each float32 [F] but ``quality_ok``, bool [F].

    ``face_px``: square root of the box area, in frame pixels; unlike the distance between the eyes it does not
    shrink when a head turns, and it compares with the detector's smallest face.
    ``sharpness``: share of fine detail in the aligned crop, see :func:`measure_quality`.
    ``brightness``: mean luma of the aligned crop, 0 (black) to 1 (white).
    ``yaw_deg`` and ``pitch_deg``: see :func:`pipelines.faces.head_pose.head_pose`; NaN where they cannot be trusted.
    ``roll_deg``: angle of the line through the eyes, -180 to 180; positive is clockwise in the picture.
    ``nose_offset``: how far the nose lies from the middle between the eyes, along the line through them, in half eye
    distances: 0 frontal, 1 below an eye; cut off at 2. Unlike ``yaw_deg`` it has a value for every face.
    """

    face_px: np.ndarray
    sharpness: np.ndarray
    brightness: np.ndarray
    yaw_deg: np.ndarray
    pitch_deg: np.ndarray
    roll_deg: np.ndarray
    nose_offset: np.ndarray
    quality_ok: np.ndarray

    def __len__(self) -> int:
        return len(self.face_px)

    def __repr__(self) -> str:
        return f"FaceQuality({len(self)} faces, {int(self.quality_ok.sum())} ok)"


def measure_quality(
    faces: Detections,
    crops: AlignedFaces,
    settings: QualitySettings | None = None,
    upright: UprightCheck | None = None,
    occasion: np.ndarray | None = None,
) -> FaceQuality:
    """Measure all faces of a batch at once.

    Sharpness is the variance of the 4-neighbour Laplacian of the crop's luma divided by the variance of the
    luma itself (Pech-Pacheco et al. 2000, doi 10.1109/ICPR.2000.903548, normalised here): brightness and contrast
    cancel, and a face that was enlarged to fill the crop scores as low as one out of focus.

    Args:
        faces: F faces in frame pixels.
        crops: the same faces, cut by ``QUALITY_CROP``.
        settings: limits of ``quality_ok``.
        upright: checks faces of which the detector was not sure; without it only the line between the eyes counts.
        occasion: int64 [F,...]; faces of the same occasion share a check. None checks each face by itself.
    """
    limits = settings or QualitySettings()
    if len(faces) != len(crops):
        raise ValueError(f"{len(faces)} faces but {len(crops)} crops")
    sides = faces.box_xyxy_px[:, 2:] - faces.box_xyxy_px[:, :2]
    face_px = np.sqrt(np.clip(sides, 0, None).prod(1))
    luma = _luma(crops.pixels)
    sharpness = _sharpness(luma)
    yaw_deg, pitch_deg = head_pose(faces.landmarks_px)
    nose_offset, roll_deg = _eye_line(faces.landmarks_px)
    ok = (face_px >= limits.min_face_px) & (nose_offset <= limits.max_nose_offset)
    ok &= (sharpness >= limits.min_sharpness) & (np.abs(roll_deg) <= limits.max_abs_roll_deg)
    unsure = np.flatnonzero(ok & ((faces.prob < _SURE_PROB) | (np.abs(roll_deg) > _LEVEL_DEG)))
    if upright is not None and len(unsure):
        some = None if occasion is None else occasion[unsure]
        ok[unsure] = upright(crops.pixels[unsure], roll_deg[unsure], some)
    return FaceQuality(
        face_px=face_px,
        sharpness=sharpness,
        brightness=luma.mean((1, 2)) / 255,
        yaw_deg=yaw_deg,
        pitch_deg=pitch_deg,
        roll_deg=roll_deg,
        nose_offset=nose_offset,
        quality_ok=ok,
    )


class UprightCheck:
    """Checks whether aligned crops show upright faces, and remembers the answer for each occasion.

    Detectors also find faces that lie on their side or stand on their head, but then put the landmarks of an upright
    face on them: eyes turned by 90 degrees are read as 26. In a crop that was aligned by such landmarks the detector
    sees no face, or a tilted one, or a better one when the crop is turned.
    """

    def __init__(self, detector: Detector, settings: QualitySettings | None = None) -> None:
        self._detector, self._limits = detector, settings or QualitySettings()
        self._known: dict[tuple[int, ...], bool] = {}

    def __call__(self, pixels: np.ndarray, roll_deg: np.ndarray, occasion: np.ndarray | None = None) -> np.ndarray:
        """Whether each face stands upright, bool [F].

        Args:
            pixels: crops, uint8 [F,C,S,S].
            roll_deg: float [F], by which each crop was turned back.
            occasion: int64 [F,...]; of each only the first face is checked. None checks all.
        """
        if occasion is None:
            return self._check(pixels, roll_deg)
        keys = [tuple(key) for key in occasion.tolist()]
        new: dict[tuple[int, ...], int] = {}
        for row, key in enumerate(keys):
            if key not in self._known:
                new.setdefault(key, row)
        rows = np.array(list(new.values()), np.int64)
        self._known.update(zip(new, self._check(pixels[rows], roll_deg[rows]).tolist(), strict=True))
        return np.array([self._known[key] for key in keys], bool)

    def _check(self, pixels: np.ndarray, roll_deg: np.ndarray) -> np.ndarray:
        rgb = pixels.transpose(0, 2, 3, 1)
        rgb = np.broadcast_to(rgb, (*rgb.shape[:3], 3))  # [F,C,S,S] -> [F,S,S,3]
        prob, tilt_deg = _look_at_crops(rgb, self._detector)
        upright = np.abs(roll_deg + tilt_deg) <= self._limits.max_abs_roll_deg
        upright &= prob >= self._limits.min_upright_prob
        unsure = np.flatnonzero(upright & (prob < _SURE_UPRIGHT_PROB))
        turned = np.concatenate([np.rot90(rgb[unsure], quarters, (1, 2)) for quarters in (1, 2, 3)])
        upright[unsure] = _look_at_crops(turned, self._detector)[0].reshape(3, -1).max(0, initial=0) < prob[unsure]
        return upright


def _look_at_crops(rgb: np.ndarray, detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Probability of a face that fills each crop uint8 [F,S,S,3], 0 if there is none, and its roll, float [F]."""
    f, side = rgb.shape[:2]
    whole = np.tile(np.array([1, 1, side, side], np.float32), (f, 1))  # a detector's boxes name the last pixel, from 1
    found = detector.refine(rgb, np.arange(f), whole, 0.0)
    prob, roll_deg = np.zeros(f, np.float32), np.zeros(f, np.float32)
    prob[found.frame_row], roll_deg[found.frame_row] = found.prob, _eye_line(found.landmarks_px)[1]
    return prob, roll_deg


def _luma(pixels: np.ndarray) -> np.ndarray:
    """uint8 [F,C,S,S] -> float32 [F,S,S], 0..255."""
    luma = pixels.astype(np.float32)
    return np.einsum("fcyx,c->fyx", luma, np.array(LUMA, np.float32)) if luma.shape[1] == 3 else luma[:, 0]


def _sharpness(luma: np.ndarray) -> np.ndarray:
    """float32 [F,S,S] -> float32 [F]."""
    if len(luma) == 0:
        return np.zeros(0, np.float32)
    middle = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    detail = (around - 4 * middle).reshape(len(luma), -1).var(1)
    return detail / (middle.reshape(len(luma), -1).var(1) + _CONTRAST_FLOOR)


def _eye_line(landmarks_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the nose lies off the middle of the line through the eyes, and that line's angle in degrees, both
    float32 [F], from landmarks [F,5,2]."""
    left, right, nose = (landmarks_px[:, i] for i in range(3))
    axis = right - left
    length_sq = np.maximum((axis**2).sum(1), 1e-6)
    nose_offset = np.abs(2 * ((nose - (left + right) / 2) * axis).sum(1) / length_sq)
    roll_deg = np.degrees(np.arctan2(axis[:, 1], axis[:, 0]))
    return np.minimum(nose_offset, 2).astype(np.float32), roll_deg.astype(np.float32)
