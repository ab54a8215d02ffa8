"""What a person can choose about an analysis, and which of it makes another table. Quick to import: no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from mfer.errors import ConfigError

__all__ = [
    "ALGORITHM_VERSIONS",
    "DECODERS",
    "DETECT_MODES",
    "AnalysisSettings",
    "Decoder",
    "DetectorSettings",
    "QualitySettings",
    "TrackerSettings",
    "parse_min_face",
]

#: Part of ``faces_id``: one is raised when the same settings would give other faces, tracks or qualities.
ALGORITHM_VERSIONS = {"detect": 1, "follow": 1, "track": 1, "quality": 1}
Decoder = Literal["auto", "decord", "pyav", "torchcodec"]
DECODERS: tuple[Decoder, ...] = ("auto", "decord", "pyav", "torchcodec")
#: A batch holds at most so many pixels: MTCNN's first net runs over all of its frames at once in float32.
_BATCH_PIXELS = 8_000_000
_MAX_BATCH_FRAMES = 16
#: Side of the smallest window that MTCNN's proposal network looks through, in pixels.
_PNET_SIDE_PX = 12
DETECT_MODES = ("tracked", "exact")


@dataclass(frozen=True)
class DetectorSettings:
    """How faces are found.

    ``min_face_px`` is the smallest face side looked for, or ``min_face_share`` of the frame's shorter side where
    that is larger; the time of a detection falls with its square. The three ``thresholds`` and the ``pyramid_factor``
    are MTCNN's own.

    ``mode`` ``exact`` runs the package on every frame. ``tracked`` detects every ``interval_s`` seconds, at cuts, and
    ``refresh_s`` seconds after a face was lost, and follows the faces in between with MTCNN's last network, which has
    to give a followed face the probability ``keep_prob``; see ``pipelines/faces/propagate.py`` and docs/performance.md.
    """

    min_face_px: int = 20
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    pyramid_factor: float = 0.709
    mode: str = "tracked"
    min_face_share: float = 0.0
    interval_s: float = 1.0
    refresh_s: float = 0.2
    keep_prob: float = 0.5

    def __post_init__(self) -> None:
        if self.min_face_px < _PNET_SIDE_PX:
            raise ConfigError(f"the smallest face is {self.min_face_px} px; MTCNN sees none below {_PNET_SIDE_PX} px")
        if not 0 <= self.min_face_share < 1:
            raise ConfigError(
                f"the smallest face is {self.min_face_share:.0%} of the frame; allowed: 0 % to below 100 %"
            )
        if self.mode not in DETECT_MODES:
            raise ConfigError(f"detection is {self.mode!r}; allowed: {', '.join(DETECT_MODES)}")
        if not (self.interval_s >= 0 and self.refresh_s >= 0):
            raise ConfigError(
                f"detection every {self.interval_s} s, {self.refresh_s} s after a loss; both must be >= 0"
            )
        if not 0 < self.keep_prob <= 1:
            raise ConfigError(f"a followed face is kept from a probability of {self.keep_prob}; allowed: above 0, to 1")

    def smallest_px(self, height_px: int, width_px: int) -> float:
        """Side of the smallest face looked for in a frame of that size, in pixels."""
        return max(self.min_face_px, self.min_face_share * min(height_px, width_px))


def parse_min_face(text: str) -> dict[str, float]:
    """The smallest face as a person writes it, ``60`` (pixels) or ``5%`` (of the frame's shorter side), as settings."""
    number, share = text.removesuffix("%"), text.endswith("%")
    try:
        return {"min_face_share": float(number) / 100} if share else {"min_face_px": int(number)}
    except ValueError:
        raise ConfigError(f"the smallest face is {text!r}; give pixels, such as 60, or a share, such as 5%") from None


@dataclass(frozen=True)
class TrackerSettings:
    """What may still be the same face.

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


@dataclass(frozen=True)
class QualitySettings:
    """Limits of ``quality_ok``.

    Each default is where the accuracy on labelled faces of the selection half bends (benchmarks/quality.py; figures
    in docs/training.md). ``min_face_px``: accuracy is level down to boxes of 18 px and falls below.
    ``max_abs_yaw``: the nose has gone three fifths of the way to an eye, about 35 degrees of head turn, beyond which it
    falls too, though few labelled faces show it. ``min_sharpness``: level above 0.02; below are faces blurred by more
    than a ninth of the distance between the eyes (Gaussian sigma), of which the detector misses a third.
    """

    min_face_px: float = 18.0
    max_abs_yaw: float = 0.6
    min_sharpness: float = 0.02

    def __post_init__(self) -> None:
        for limit in fields(self):
            if not getattr(self, limit.name) >= 0:
                raise ConfigError(f"quality {limit.name} is {getattr(self, limit.name)}; it must be 0 or more")


@dataclass(frozen=True)
class AnalysisSettings:
    """Sampling (``every`` frames, or ``fps``), detector, tracker and quality settings, segments and the decoder.

    A video is analysed in segments of at most ``segment_s`` seconds, each committed by itself; the detector starts
    afresh in each. All but the decoder change the rows, so they are part of ``faces_id``; the decoder only changes the
    speed.
    """

    every: int = 1
    fps: float | None = None
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    tracker: TrackerSettings = field(default_factory=TrackerSettings)
    quality: QualitySettings = field(default_factory=QualitySettings)
    decoder: str = "auto"
    segment_s: float = 300.0

    def __post_init__(self) -> None:
        if self.every < 1 or (self.fps is not None and not 0 < self.fps < math.inf):
            raise ConfigError(f"sampling got every={self.every}, fps={self.fps}; allowed: every >= 1, or fps > 0")
        if self.fps is not None and self.every != 1:
            raise ConfigError(f"sampling got every={self.every} and fps={self.fps}; give one of the two")
        if not 0 < self.segment_s < math.inf:
            raise ConfigError(f"segments of {self.segment_s} s; allowed: above 0")
        if self.decoder not in DECODERS:
            raise ConfigError(f"decoder is {self.decoder!r}; allowed: {', '.join(DECODERS)}")

    def hashed(self) -> dict[str, Any]:
        """What ``faces_id`` is made of: the settings that change rows, and the versions of the algorithms."""
        chosen = asdict(self)
        del chosen["decoder"]
        return {**chosen, "algorithm_versions": ALGORITHM_VERSIONS}

    def batch_frames(self, width_px: int, height_px: int) -> int:
        """Frames that are worked on at once, by the size of the picture."""
        return max(1, min(_MAX_BATCH_FRAMES, _BATCH_PIXELS // (width_px * height_px)))
