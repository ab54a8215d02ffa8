"""How much more the mouth of a face moves than the rest of it: what speech looks like, without a network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mfer.card import CropContract
from pipelines.align import align_faces
from pipelines.batches import AlignedFaces, Detections, FrameBatch

__all__ = ["MOTION_CROP", "MouthMotion"]

#: The crop that motion is measured in, whatever the model's own.
MOTION_CROP = CropContract()
#: A face is compared with the one of its track that was seen nearest to so many seconds before, within these limits.
#: Syllables last 0.15 to 0.3 s; what the landmarks jitter from frame to frame does not grow with time, speech does.
_LAG_S, _MIN_LAG_S, _MAX_LAG_S = 0.2, 0.15, 0.35
#: Added to both residuals, in standard deviations of the upper face: what is below is noise.
_FLOOR = 0.05
#: Added to that standard deviation, in grey levels: a flat crop has no motion.
_MIN_CONTRAST = 5.0


def _regions() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of the upper face, of which a checkerboard is enough, and of the lips."""
    left_eye, right_eye, _, mouth, _ = MOTION_CROP.template_px()
    unit, middle = right_eye[0] - left_eye[0], (left_eye[0] + right_eye[0]) / 2
    row, column = np.mgrid[: MOTION_CROP.side_px, : MOTION_CROP.side_px]
    across, below_eyes, below_mouth = (
        np.abs(column - middle) / unit,
        (row - left_eye[1]) / unit,
        (row - mouth[1]) / unit,
    )
    upper = (across < 0.9) & (below_eyes > -0.6) & (below_eyes < 0.65) & ((row + column) % 2 == 0)
    lips = (across < 0.5) & (below_mouth > -0.33) & (below_mouth < 0.28)
    return tuple(np.nonzero(upper)), tuple(np.nonzero(lips))  # type: ignore[return-value]


_UPPER, _LIPS = _regions()


class MouthMotion:
    """Compares faces with earlier ones of their tracks; for the faces of one segment, in order."""

    def __init__(self, crop: CropContract) -> None:
        """``crop`` is the contract of the crops that will be given."""
        self._given = replace(crop, mean=MOTION_CROP.mean, std=MOTION_CROP.std) == MOTION_CROP
        self._seen: dict[int, list[tuple[float, np.ndarray]]] = {}

    def __call__(self, frames: FrameBatch, faces: Detections, crops: AlignedFaces, track: np.ndarray) -> np.ndarray:
        """Motion of the mouth over that of the upper face since about 0.2 s before, float32 [F].

        Both are what remains after the crops were laid over each other by the upper face (shift, scale, rotation,
        brightness and contrast, by least squares), so a moving head or jittering landmarks give about 1. NaN where the
        track was not seen at that time, because it begins here or frames are sampled too far apart.

        Args:
            frames: a batch.
            faces, crops, track: F faces of it, as the network sees them, and their track numbers int64 [F].
        """
        motion = np.full(len(faces), np.nan, np.float32)
        time_s = frames.pts_s[faces.frame_row]
        before, now, rows = [], [], []
        for row, (face, at_s) in enumerate(zip(self._normalised(frames, faces, crops), time_s, strict=True)):
            seen = [one for one in self._seen.get(int(track[row]), []) if at_s - one[0] <= _MAX_LAG_S]
            if earlier := [one for one in seen if at_s - one[0] >= _MIN_LAG_S]:
                before.append(min(earlier, key=lambda one: abs(at_s - one[0] - _LAG_S))[1])
                now.append(face)
                rows.append(row)
            self._seen[int(track[row])] = [*seen, (at_s, face)]
        if len(frames):  # a track that is gone is not kept
            self._seen = {k: seen for k, seen in self._seen.items() if frames.pts_s[-1] - seen[-1][0] <= _MAX_LAG_S}
        if rows:
            motion[rows] = _motion(np.stack(before), np.stack(now))
        return motion

    def _normalised(self, frames: FrameBatch, faces: Detections, crops: AlignedFaces) -> np.ndarray:
        """Slightly blurred luma of each face, in standard deviations of its upper half from its mean, [F,S,S]."""
        pixels = (crops if self._given else align_faces(frames, faces, MOTION_CROP)).pixels
        padded = np.pad(pixels[:, 0].astype(np.float32), ((0, 0), (1, 1), (1, 1)), mode="edge")
        rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
        soft = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9
        upper = soft[:, *_UPPER]
        mean, contrast = upper.mean(1), upper.std(1) + _MIN_CONTRAST
        return np.asarray((soft - mean[:, None, None]) / contrast[:, None, None])


def _motion(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """The ratio of both residuals of pairs of normalised faces [P,S,S], float [P]."""
    mean, change = (before + now) / 2, now - before
    slope_y, slope_x = np.gradient(mean, axis=(1, 2))
    middle = (mean.shape[1] - 1) / 2

    def effects(region: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """How a shift, a scale, a rotation, brightness and contrast change each pixel, [P,N,6]."""
        y, x = ((at - middle) / middle for at in region)
        dx, dy = slope_x[:, *region], slope_y[:, *region]
        return np.stack([dx, dy, dx * x + dy * y, dy * x - dx * y, np.ones_like(dx), mean[:, *region]], -1)

    upper = effects(_UPPER).astype(np.float64)
    normal = upper.transpose(0, 2, 1) @ upper + 1e-6 * np.eye(6)
    fit = np.linalg.solve(normal, upper.transpose(0, 2, 1) @ change[:, *_UPPER, None])  # [P,6,1]
    rest, lips = (
        np.sqrt(((change[:, *region] - (of_region @ fit)[..., 0]) ** 2).mean(1)) + _FLOOR
        for region, of_region in ((_UPPER, upper), (_LIPS, effects(_LIPS)))
    )
    return np.asarray(lips / rest)
