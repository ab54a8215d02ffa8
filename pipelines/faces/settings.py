"""Settings of the tracker and of the quality check. Quick to import: no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mfer.errors import ConfigError

__all__ = ["QualitySettings", "TrackerSettings"]


@dataclass(frozen=True, kw_only=True)
class TrackerSettings:
    """When two faces of successive frames count as the same face.

    ``min_iou``: overlap of a face's box with where its track was expected.
    ``max_landmark_distance``: mean distance of the five landmarks to where they were expected, in box sides. It keeps
    apart faces of differing size or pose whose boxes happen to overlap.
    ``max_gap_s``: a face missed for longer starts a new track. It counts time, not frames; where samples
    themselves lie further apart, a face is still followed from one sample to the next.
    ``velocity_decay_s``: the expected movement is at constant velocity, which fades with this time constant
    while the face is unseen: heads turn back, and a face that is gone must not fly out of the picture.
    ``velocity_smoothing_s``: time constant of the average over observed velocities; landmarks jitter by 2 %
    of the distance between the eyes, which at 30 frames per second looks like movement.
    ``cut_threshold``: cut score (see :func:`cut_scores`) from which on all tracks end. Measured on six clips cut
    together: within a shot at most 0.45, even for samples two seconds apart, but for a camera that races past
    (0.44 from frame to frame, more when sampled); of 13,090 cuts between shots 0.5 % lie below 0.5. A cut too many only
    splits a track.
    """

    min_iou: float = 0.2
    max_landmark_distance: float = 0.5
    max_gap_s: float = 1.0
    velocity_decay_s: float = 0.5
    velocity_smoothing_s: float = 0.2
    cut_threshold: float = 0.5

    def __post_init__(self) -> None:
        for limit in fields(self):
            if not getattr(self, limit.name) > 0:
                raise ConfigError(f"tracker {limit.name} is {getattr(self, limit.name)}; it must be above 0")
        if self.min_iou > 1:
            raise ConfigError(f"tracker min_iou is {self.min_iou}; overlap lies between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class QualitySettings:
    """Limits of ``quality_ok``.

    Each default is where the accuracy on labelled faces of the selection half bends (benchmarks/quality.py; figures
    in docs/training.md). ``min_face_px``: accuracy falls slowly from boxes of 25 px on, and fast below 18 px.
    ``max_nose_offset``: the nose has gone three fifths of the way to an eye, about 30 degrees of head turn, beyond
    which it falls too, though few labelled faces show it. ``min_sharpness``: it falls all along; below 0.02 are faces
    blurred by more than a ninth of the distance of the eyes (Gaussian sigma), of which the detector misses a third.
    ``max_abs_roll_deg``: further tilted heads are misread, because the detector's landmarks do not follow them; and
    ``min_upright_prob``: what the detector has to give the upright crop, if it looks at it again (see
    ``pipelines/faces/quality.py``).
    """

    min_face_px: float = 18.0
    max_nose_offset: float = 0.6
    min_sharpness: float = 0.02
    max_abs_roll_deg: float = 45.0
    min_upright_prob: float = 0.9

    def __post_init__(self) -> None:
        for limit in fields(self):
            if not getattr(self, limit.name) >= 0:
                raise ConfigError(f"quality {limit.name} is {getattr(self, limit.name)}; it must be 0 or more")
