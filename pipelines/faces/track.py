"""Short-term face tracks: match faces from one sampled frame to the next, until a cut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mfer.crop import LUMA
from pipelines.batches import Detections, FrameBatch
from pipelines.faces.settings import TrackerSettings

__all__ = ["Tracker", "box_iou", "cut_scores"]

#: Side of the luma thumbnails whose difference shows cuts.
_THUMBNAIL_SIDE = 24
#: C2 of SSIM for 8-bit pixels, (0.03 * 255)^2: contrast below it is noise, so two black frames are alike.
_CONTRAST_FLOOR = (0.03 * 255) ** 2


def cut_scores(rgb: np.ndarray, previous: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Difference of each frame from the one before: 0 the same, about 1 unrelated, up to 2 inverted.

    One minus the contrast-and-structure term of SSIM (Wang et al. 2004, doi 10.1109/TIP.2003.819861, the product
    of eq. 9 and 10 with C3 = C2 / 2), taken once over a small luma thumbnail. Movement hardly shows in it, and an
    exposure change by a factor of two costs 0.2.

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
    variances = np.square(thumbnails).mean(1) + np.square(before).mean(1)
    return 1 - (2 * covariance + _CONTRAST_FLOOR) / (variances + _CONTRAST_FLOOR), thumbnails[-1]


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
        self._thumbnail: np.ndarray | None = None

    def cuts(self, rgb: np.ndarray) -> np.ndarray:
        """Which frames of the next batch follow a cut, bool [T]."""
        scores, self._thumbnail = cut_scores(rgb, self._thumbnail)
        return scores >= self.settings.cut_threshold

    def __call__(self, frames: FrameBatch, faces: Detections, cuts: np.ndarray | None = None) -> np.ndarray:
        """Track numbers of a batch's faces, int64 [F]; ``cuts`` as of :meth:`cuts`, where they are known."""
        cuts = self.cuts(frames.rgb) if cuts is None else cuts
        starts = np.searchsorted(faces.frame_row, np.arange(len(frames) + 1))
        numbers = np.empty(len(faces), np.int64)
        for row, pts_s in enumerate(frames.pts_s.tolist()):
            if cuts[row]:
                self._tracks.clear()
            of_frame = slice(starts[row], starts[row + 1])
            numbers[of_frame] = self._follow(pts_s, faces.box_xyxy_px[of_frame], faces.landmarks_px[of_frame])
        return numbers

    def _follow(self, pts_s: float, boxes: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Pair one frame's faces with the live tracks, start tracks for the rest, and return their numbers."""
        limits = self.settings
        self._tracks = [t for t in self._tracks if pts_s - t.pts_s <= limits.max_gap_s or t.pts_s == self._pts_s]
        self._pts_s = pts_s
        owner: dict[int, _Track] = {}
        if self._tracks and len(boxes):
            expected = [_expect(track, pts_s, limits.velocity_decay_s) for track in self._tracks]
            iou = box_iou(np.stack([box for box, _ in expected]), boxes)
            distance = _landmark_distance(np.stack([points for _, points in expected]), landmarks, boxes)
            near = (iou >= limits.min_iou) & (distance <= limits.max_landmark_distance)
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
