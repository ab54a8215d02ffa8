"""Short-term face tracks: match faces from one sampled frame to the next, until a cut."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mfer.card import CropContract
from mfer.crop import LUMA, align_matrix, warp_faces
from pipelines.batches import Detections, FrameBatch
from pipelines.faces.settings import TrackerSettings

__all__ = ["CUT", "LEAP", "Tracker", "box_iou", "cut_scores"]

#: What ``Tracker.cuts`` says of a frame: it follows a cut, or it may follow one between two shots that look alike.
CUT, LEAP = 2, 1
#: A score that leaps is no movement, which begins and ends over some frames: it is so many times the greatest of the
#: last scores, and at least so large, more where more time has passed. In films of five speakers, in the same place
#: before the same wall, cuts have 0.07 to 0.5, where no frame of one speaker has more than 0.002. Within the shots of
#: nine clips one leap is as large, of a woman who puts her hands before her face. Samples further apart than the last
#: limit leap without a cut.
_LEAP_TIMES, _MIN_LEAP, _LEAP_PER_S, _LEAP_STEP_S = 8.0, 0.05, 0.75, 0.25
_MIN_LAST_SCORES, _MAX_LAST_SCORES = 3, 5
#: A lower score, of rounding, is of the same picture again, as in a recording of 10 frames per second with 60 in its
#: file: no stillness after which anything leaps.
_SAME_PICTURE = 1e-6
#: Correlation of two aligned faces from which they are the same person after a leap: across the cuts above two people
#: have at most 0.70, one person in the light of a flash, the face lit from one side too, has 0.88 or more.
_SAME_LOOK, _LOOK_CROP = 0.72, CropContract()

#: Side of the luma thumbnails whose difference shows cuts.
_THUMBNAIL_SIDE = 24
#: C2 of SSIM for 8-bit pixels, (0.03 * 255)^2: contrast below it is noise, so two black frames are alike.
_CONTRAST_FLOOR = (0.03 * 255) ** 2
#: Variance of a thumbnail below which a picture is flat: nobody can be seen in it.
_FLAT = 2.0**2


def cut_scores(rgb: np.ndarray, previous: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Difference of each frame from the one before: 0 the same, about 1 unrelated, up to 2 inverted.

    One minus the contrast-and-structure term of SSIM (Wang et al. 2004, doi 10.1109/TIP.2003.819861, the product
    of eq. 9 and 10 with C3 = C2 / 2), taken once over a small luma thumbnail. Movement hardly shows in it, and an
    exposure change by a factor of two costs 0.2. A picture that turns flat scores 1, as a fade has no larger step.

    Args:
        rgb: uint8 [T,H,W,3], consecutive frames.
        previous: thumbnail of the frame before the first; None at the start of a segment, where the score is 0.

    Returns:
        float32 [T] scores, and the last frame's thumbnail for the next call.
    """
    if len(rgb) == 0:
        return np.zeros(0, np.float32), previous
    stride = max(1, min(rgb.shape[1:3]) // (4 * _THUMBNAIL_SIDE))  # every pixel would cost more and show no more
    luma = rgb[:, ::stride, ::stride].astype(np.float32) @ np.array(LUMA, np.float32)  # [T,H,W,3] -> [T,h,w]
    down, across = (_means(n) for n in luma.shape[1:])
    thumbnails = (down @ luma @ across.T).reshape(len(luma), -1)  # [T,side*side]
    thumbnails -= thumbnails.mean(1, keepdims=True)
    before = np.concatenate([thumbnails[:1] if previous is None else previous[None], thumbnails[:-1]])
    covariance = (thumbnails * before).mean(1)
    contrast, contrast_before = np.square(thumbnails).mean(1), np.square(before).mean(1)
    scores = 1 - (2 * covariance + _CONTRAST_FLOOR) / (contrast + contrast_before + _CONTRAST_FLOOR)
    return np.where((contrast < _FLAT) & (contrast_before >= _FLAT), np.float32(1), scores), thumbnails[-1]


@lru_cache
def _means(n: int) -> np.ndarray:
    """Averages n pixels to those of a thumbnail, float32 [side,n]."""
    edges = np.arange(_THUMBNAIL_SIDE + 1) * n / _THUMBNAIL_SIDE
    at = np.arange(n)
    share = (at >= np.floor(edges[:-1, None])) & (at < np.ceil(edges[1:, None]))
    return (share / share.sum(1, keepdims=True)).astype(np.float32)


@dataclass(kw_only=True)
class _Track:
    """A face as last seen; velocity in pixels per second."""

    number: int
    pts_s: float
    box_xyxy_px: np.ndarray
    landmarks_px: np.ndarray
    velocity: np.ndarray


class Tracker:
    """Numbers the faces of one segment, fed batch by batch in order; where batches end makes no difference.

    Faces are paired with tracks best pair first, by overlap minus landmark distance, both against where a track is
    expected by its velocity. Numbers start at 0, in order of appearance, and are never used again.
    """

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        self.settings = settings or TrackerSettings()
        self._tracks: list[_Track] = []
        self._n_tracks = 0
        self._pts_s = -np.inf  # of the frame before
        self._rgb: np.ndarray | None = None  # the frame before, uint8 [1,H,W,3]
        self._thumbnail: np.ndarray | None = None
        self._last_scores = deque[float](maxlen=_MAX_LAST_SCORES)
        self._scored_s = -np.inf  # of the last picture that was another one

    def cuts(self, frames: FrameBatch) -> np.ndarray:
        """Which frames of the next batch follow a cut: int8 [T], ``CUT``, ``LEAP`` or 0."""
        scores, self._thumbnail = cut_scores(frames.rgb, self._thumbnail)
        return np.array([self._cut(*at) for at in zip(frames.pts_s.tolist(), scores.tolist(), strict=True)], np.int8)

    def _cut(self, pts_s: float, score: float) -> int:
        if score < _SAME_PICTURE:
            return 0
        last, step_s = self._last_scores, pts_s - self._scored_s
        self._scored_s = pts_s
        if score >= self.settings.cut_threshold:
            last.clear()
            return CUT
        comparable = len(last) >= _MIN_LAST_SCORES and step_s <= _LEAP_STEP_S
        if comparable and score >= max(_MIN_LEAP, _LEAP_PER_S * step_s, _LEAP_TIMES * max(last)):
            last.clear()
            return LEAP
        last.append(score)
        return 0

    def __call__(self, frames: FrameBatch, faces: Detections, cuts: np.ndarray | None = None) -> np.ndarray:
        """Track numbers of a batch's faces, int64 [F]; ``cuts`` as of :meth:`cuts`, where they are known."""
        cuts = self.cuts(frames) if cuts is None else cuts
        starts = np.searchsorted(faces.frame_row, np.arange(len(frames) + 1))
        numbers = np.empty(len(faces), np.int64)
        for row, pts_s in enumerate(frames.pts_s.tolist()):
            of_frame = slice(starts[row], starts[row + 1])
            landmarks = faces.landmarks_px[of_frame]
            if cuts[row] == CUT:
                self._tracks.clear()
            rgb = frames.rgb[row : row + 1]
            alike = self._look_alike(rgb, landmarks) if cuts[row] == LEAP else None
            numbers[of_frame] = self._follow(pts_s, faces.box_xyxy_px[of_frame], landmarks, alike)
            self._rgb = rgb
        return numbers

    def _look_alike(self, rgb: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """End the tracks that were not seen in the frame before, and compare those that were with M faces of a frame.

        Args:
            rgb: uint8 [1,H,W,3], of the size of the frame before.
            landmarks: float [M,5,2].

        Returns:
            Whether a track and a face look the same, bool [N,M].
        """
        self._tracks = [track for track in self._tracks if track.pts_s == self._pts_s]
        if self._rgb is None or not self._tracks or not len(landmarks):
            return np.zeros((len(self._tracks), len(landmarks)), bool)

        def looks(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
            matrix = align_matrix(points, _LOOK_CROP)
            crops = warp_faces(frame, np.zeros(len(points), np.int64), matrix, _LOOK_CROP)
            flat = crops.reshape(len(points), -1).astype(np.float64)
            flat -= flat.mean(1, keepdims=True)
            return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6))

        before = looks(self._rgb, np.stack([track.landmarks_px for track in self._tracks]))
        return np.asarray(before @ looks(rgb, landmarks).T >= _SAME_LOOK)

    def _follow(self, pts_s: float, boxes: np.ndarray, landmarks: np.ndarray, alike: np.ndarray | None) -> np.ndarray:
        """Pair one frame's faces with the live tracks, start tracks for the rest, and return their numbers.

        Only pairs that are ``alike`` (bool [N,M]) count, where that is known.
        """
        limits = self.settings
        if alike is None:
            self._tracks = [t for t in self._tracks if pts_s - t.pts_s <= limits.max_gap_s or t.pts_s == self._pts_s]
        self._pts_s = pts_s
        owner: dict[int, _Track] = {}
        if self._tracks and len(boxes):
            expected = [_expect(track, pts_s, limits.velocity_decay_s) for track in self._tracks]
            iou = box_iou(np.stack([box for box, _ in expected]), boxes)
            distance = _landmark_distance(np.stack([points for _, points in expected]), landmarks, boxes)
            near = (iou >= limits.min_iou) & (distance <= limits.max_landmark_distance)
            if alike is not None:
                near &= alike
            score = np.where(near, iou - distance, -np.inf)
            while np.isfinite(best := score.max()):
                track, face = (int(i) for i in np.argwhere(score == best)[0])
                owner[face] = self._tracks[track]
                score[track, :] = score[:, face] = -np.inf
        for face in range(len(boxes)):
            if face in owner:
                self._move(owner[face], pts_s, boxes[face], landmarks[face])
            else:
                owner[face] = _Track(
                    number=self._n_tracks,
                    pts_s=pts_s,
                    box_xyxy_px=boxes[face],
                    landmarks_px=landmarks[face],
                    velocity=np.zeros(2),
                )
                self._tracks.append(owner[face])
                self._n_tracks += 1
        return np.array([owner[face].number for face in range(len(boxes))], np.int64)

    def _move(self, track: _Track, pts_s: float, box: np.ndarray, landmarks: np.ndarray) -> None:
        elapsed_s = pts_s - track.pts_s
        if elapsed_s > 0:  # damaged files repeat times
            velocity = (landmarks - track.landmarks_px).mean(0) / elapsed_s
            weight = -np.expm1(-elapsed_s / self.settings.velocity_smoothing_s)
            track.velocity = track.velocity + weight * (velocity - track.velocity)
        track.pts_s, track.box_xyxy_px, track.landmarks_px = pts_s, box, landmarks


def _expect(track: _Track, pts_s: float, decay_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Box [4] and landmarks [5,2] where the track should be by now."""
    travel_s = -decay_s * np.expm1(-max(pts_s - track.pts_s, 0.0) / decay_s)  # integral of a fading velocity
    shift = track.velocity * travel_s
    return track.box_xyxy_px + np.tile(shift, 2), track.landmarks_px + shift


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [N,4] and [M,4] -> [N,M]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(1) for box in (a, b))
    return shared / np.maximum(area_a[:, None] + area_b - shared, 1e-6)


def _landmark_distance(expected: np.ndarray, landmarks: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Mean landmark distance in box sides, [N,5,2] against [M,5,2] with boxes [M,4] -> [N,M]."""
    distance_px = np.linalg.norm(expected[:, None] - landmarks[None], axis=3).mean(2)
    side_px = np.sqrt(np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-6))
    return distance_px / side_px
