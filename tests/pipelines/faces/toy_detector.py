"""A detector as somebody else would write one: it finds what is bright, and puts the points of a face on it."""

from __future__ import annotations

import numpy as np

from pipelines.batches import Detections
from pipelines.faces.detectors import DetectorSettings, Network, Networks

__all__ = ["ToyDetector"]

#: Eyes, nose and mouth corners in box sides.
_POINTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)


def brightest(rgb: np.ndarray) -> tuple[np.ndarray, ...]:
    """The mean place (x, y) of the bright pixels of each frame and their share, float32 [T,3]."""
    bright = rgb.mean(3) > 127  # [T,H,W]
    found = []
    for picture in bright:
        y, x = picture.nonzero()
        found.append([x.mean(), y.mean(), len(x) / picture.size] if len(x) else [0.0, 0.0, 0.0])
    return (np.array(found, np.float32).reshape(-1, 3),)


class ToyDetector:
    """At most one face per frame, of the smallest allowed side."""

    def __init__(self, settings: DetectorSettings, networks: Networks) -> None:
        self.settings = settings
        self._networks = networks

    @staticmethod
    def networks(settings: DetectorSettings, device: str) -> dict[str, Network]:
        return {"brightest": Network(brightest, by_row=True)}

    def detect(self, rgb: np.ndarray, min_prob: float | None = None, *, large_only: bool = False) -> Detections:
        (found,) = self._networks["brightest"](rgb)
        row = np.flatnonzero(found[:, 2] > 0)
        side = self.settings.smallest_px(*rgb.shape[1:3])
        low = found[row, :2] - np.float32(side / 2)
        box = np.concatenate([low, low + np.float32(side)], 1)
        return Detections(row, box, low[:, None] + np.float32(side) * _POINTS, np.ones(len(row), np.float32))

    def refine(
        self, rgb: np.ndarray, frame_row: np.ndarray, box_xyxy_px: np.ndarray, min_prob: float | None = None
    ) -> Detections:
        raise AssertionError("a detector that cannot follow was asked to")
