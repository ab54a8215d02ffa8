"""Turn frames by quarter turns before faces are found, and turn faces with them and back.

Only detection, scoring and quality use turned frames. Rows keep the coordinates of the picture as a player shows it, so
that stills, players and everything else that draws faces need not know about the turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from pipelines.batches import Detections, FrameBatch

__all__ = ["Turn", "best_quarters"]


@dataclass(frozen=True)
class Turn:
    """A number of quarter turns clockwise, of frames of that size before the turn."""

    quarters: int
    width_px: int
    height_px: int

    @property
    def degrees(self) -> int:
        return 90 * self.quarters

    def frames(self, batches: Iterable[FrameBatch]) -> Iterator[FrameBatch]:
        """Turn frames."""
        for batch in batches:
            yield replace(batch, rgb=_turned(batch.rgb, self.quarters)) if self.quarters else batch

    def faces(self, faces: Detections) -> Detections:
        """Map faces from the original frame to the turned one."""
        for quarter in range(self.quarters):
            faces = _turned_faces(faces, self.width_px if quarter % 2 else self.height_px)
        return faces

    def faces_back(self, faces: Detections) -> Detections:
        """Map faces from the turned frame to the original one."""
        size = (self.width_px, self.height_px) if self.quarters % 2 == 0 else (self.height_px, self.width_px)
        return Turn(-self.quarters % 4, *size).faces(faces)


def _turned(rgb: np.ndarray, quarters: int) -> np.ndarray:
    """uint8 [T,H,W,3], turned clockwise."""
    return np.ascontiguousarray(np.rot90(rgb, -quarters, (1, 2)))


def _turned_faces(faces: Detections, height_px: int) -> Detections:
    """Turn faces of frames of that height once: (x, y) goes to (height - 1 - y, x)."""
    x1, y1, x2, y2 = faces.box_xyxy_px.T
    box = np.stack([height_px - 1 - y2, x1, height_px - 1 - y1, x2], 1)
    x, y = faces.landmarks_px[..., 0], faces.landmarks_px[..., 1]
    return replace(faces, box_xyxy_px=box, landmarks_px=np.stack([height_px - 1 - y, x], -1))


def best_quarters(frames: Iterable[FrameBatch], find: Callable[[FrameBatch], tuple[float, float]]) -> int:
    """Choose the number of quarter turns in which some frames show most faces; the smallest of equally good ones.

    Args:
        frames: of one video.
        find: returns the summed probabilities of the good faces, and of all faces, in some frames.
    """
    shown = np.zeros((4, 2))
    for batch in frames:
        for quarters in range(4):
            shown[quarters] += find(replace(batch, rgb=_turned(batch.rgb, quarters)))
    return max(range(4), key=lambda quarters: tuple(shown[quarters]))
