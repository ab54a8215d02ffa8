"""What a person can choose about an analysis, and which of it makes another table. Quick to import: no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from mfer.errors import ConfigError
from pipelines.faces.detectors import DETECT_MODES, DETECTORS, DetectMode, DetectorSettings, parse_min_face
from pipelines.faces.settings import QualitySettings, TrackerSettings
from pipelines.video.decoders import DECODERS
from storage.stitch import STITCH_VERSION

__all__ = [
    "ALGORITHM_VERSIONS",
    "DECODERS",
    "DETECTORS",
    "DETECT_MODES",
    "ROTATIONS",
    "AnalysisSettings",
    "DetectMode",
    "DetectorSettings",
    "QualitySettings",
    "Rotation",
    "TrackerSettings",
    "parse_min_face",
]

#: Part of ``faces_id``: bump one when the same settings would give other faces, tracks or qualities.
ALGORITHM_VERSIONS = {"times": 3, "detect": 1, "follow": 5, "track": 2, "quality": 2, "stitch": STITCH_VERSION}
#: Degrees clockwise, or ``auto``: the turn in which most faces stand upright.
Rotation = Literal["90", "180", "270", "auto"]
ROTATIONS: tuple[Rotation, ...] = get_args(Rotation)
#: A batch holds at most so many pixels: detectors look at all of its frames at once, in float32.
_BATCH_PIXELS = 8_000_000
_MAX_BATCH_FRAMES = 16


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """Sampling (``every`` frames, or ``fps``), rotation, detector, tracker, quality, segments and the decoder.

    ``rotate`` turns the frames before faces are looked for, beyond what the file itself says: for people who lie on
    their side in the picture that a player shows. A video is analysed in segments of at most ``segment_s`` seconds,
    each committed by itself; the detector starts afresh in each. All but the decoder change the rows, so they are part
    of ``faces_id``; the decoder only changes the speed.
    """

    every: int = 1
    fps: float | None = None
    rotate: Rotation | None = None
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
        if self.rotate is not None and self.rotate not in ROTATIONS:
            raise ConfigError(f"rotate is {self.rotate!r}; allowed: {', '.join(ROTATIONS)}")
        if self.decoder not in ("auto", *DECODERS):
            raise ConfigError(f"the decoder is {self.decoder!r}; allowed: auto, {', '.join(DECODERS)}")

    def hashed(self) -> dict[str, Any]:
        """What ``faces_id`` is made of: the settings that change rows, and the versions of the algorithms."""
        chosen = asdict(self)
        del chosen["decoder"]
        return {**chosen, "algorithm_versions": ALGORITHM_VERSIONS}

    def batch_frames(self, width_px: int, height_px: int) -> int:
        """Frames that are worked on at once, by the size of the picture."""
        return max(1, min(_MAX_BATCH_FRAMES, _BATCH_PIXELS // (width_px * height_px)))
