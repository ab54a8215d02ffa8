"""What a person can choose about an analysis, and which of it makes another table."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from mfer.errors import ConfigError
from pipelines import detect, follow, quality, track
from pipelines.decode import DECODERS
from pipelines.detect import DetectorSettings
from pipelines.quality import QualitySettings
from pipelines.track import TrackerSettings

__all__ = ["AnalysisSettings"]

#: A batch holds at most so many pixels: MTCNN's first net runs over all of its frames at once in float32.
_BATCH_PIXELS = 8_000_000
_MAX_BATCH_FRAMES = 16


@dataclass(frozen=True)
class AnalysisSettings:
    """Sampling (``every`` frames, or ``fps``), detector, tracker and quality settings, and the decoder.

    All but the decoder change the rows, so they are part of ``faces_id``; the decoder only changes the speed.
    """

    every: int = 1
    fps: float | None = None
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    tracker: TrackerSettings = field(default_factory=TrackerSettings)
    quality: QualitySettings = field(default_factory=QualitySettings)
    decoder: str = "auto"

    def __post_init__(self) -> None:
        if self.every < 1 or (self.fps is not None and not 0 < self.fps < math.inf):
            raise ConfigError(f"sampling got every={self.every}, fps={self.fps}; allowed: every >= 1, or fps > 0")
        if self.fps is not None and self.every != 1:
            raise ConfigError(f"sampling got every={self.every} and fps={self.fps}; give one of the two")
        if self.decoder not in DECODERS:
            raise ConfigError(f"decoder is {self.decoder!r}; allowed: {', '.join(DECODERS)}")

    def hashed(self) -> dict[str, Any]:
        """What ``faces_id`` is made of: the settings that change rows, and the versions of the algorithms."""
        chosen = asdict(self)
        del chosen["decoder"]
        versions = {
            "detect": detect.ALGORITHM_VERSION,
            "follow": follow.ALGORITHM_VERSION,
            "track": track.ALGORITHM_VERSION,
            "quality": quality.ALGORITHM_VERSION,
        }
        return {**chosen, "algorithm_versions": versions, "segment_s": None}

    def batch_frames(self, width_px: int, height_px: int) -> int:
        """Frames that are worked on at once, by the size of the picture."""
        return max(1, min(_MAX_BATCH_FRAMES, _BATCH_PIXELS // (width_px * height_px)))
