"""The faces of a video at any moment, from what the lake has of its sampled frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dashboards.palette import EXPRESSION_COLOURS
from storage.relations import Connection, rows_of

__all__ = ["FaceTrack", "read_face_tracks"]

#: A face that was missed for no longer is where a line between its two places says, as far as hiding it goes.
_MAX_MISSED_S = 1.0
#: A face is hidden for this long before it was first found and after it was last found: the detector is late.
_AROUND_S = 0.4


@dataclass(frozen=True)
class FaceTrack:
    """One face at its N sampled frames: time_s and end_s float64 [N] (until when a sample holds), box_px float64 [N,4],
    prob float64 [N,8] in the order of ``EXPRESSION_COLOURS``, 0 where the model lacks the class."""

    track_id: int
    time_s: np.ndarray
    end_s: np.ndarray
    box_px: np.ndarray
    prob: np.ndarray

    def sample_at(self, at_s: float) -> int | None:
        """Which sample is shown at a moment; None where the face is not seen."""
        k = int(np.searchsorted(self.time_s, at_s + 1e-6, side="right")) - 1
        return k if k >= 0 and at_s < self.end_s[k] - 1e-6 else None

    def box_at(self, at_s: float) -> np.ndarray | None:
        """The box where the face is seen: between two samples that follow each other on the line between them."""
        k = self.sample_at(at_s)
        if k is None:
            return None
        touches = k + 1 < len(self.time_s) and self.time_s[k + 1] <= self.end_s[k] + 1e-6
        return self._between(k, at_s) if touches else self.box_px[k]

    def hidden_box_at(self, at_s: float) -> np.ndarray | None:
        """The box to hide: also through short misses, and a little before and after the track."""
        k = int(np.searchsorted(self.time_s, at_s + 1e-6, side="right")) - 1
        if k < 0:
            return self.box_px[0] if at_s >= self.time_s[0] - _AROUND_S else None
        if k + 1 < len(self.time_s) and self.time_s[k + 1] - self.end_s[k] <= _MAX_MISSED_S:
            return self._between(k, at_s)
        if at_s < self.end_s[k] + _AROUND_S:
            return self.box_px[k]
        return self.box_px[k + 1] if k + 1 < len(self.time_s) and at_s >= self.time_s[k + 1] - _AROUND_S else None

    def _between(self, k: int, at_s: float) -> np.ndarray:
        share = (at_s - self.time_s[k]) / max(self.time_s[k + 1] - self.time_s[k], 1e-9)
        return self.box_px[k] + share * (self.box_px[k + 1] - self.box_px[k])


def read_face_tracks(con: Connection, video_id: str) -> list[FaceTrack]:
    """The tracks of a video, the longest first."""
    columns = ", ".join(f"coalesce(p_{name}, 0) AS {name}" for name in EXPRESSION_COLOURS)
    rows = rows_of(
        con,
        f"SELECT track_id, time_s, time_s + duration_s AS end_s, box_x1_px, box_y1_px, box_x2_px, box_y2_px, {columns}"
        " FROM scores WHERE video_id = ? ORDER BY track_id, time_s",
        [video_id],
    )
    track = _floats(rows, ["track_id"])[:, 0].astype(int)
    starts = np.flatnonzero(np.diff(track, prepend=-1)) if len(track) else np.zeros(0, int)
    found = []
    for first, end in zip(starts, np.append(starts[1:], len(track)), strict=True):
        part = rows.slice(first, end - first)
        time_s, end_s = _floats(part, ["time_s", "end_s"]).T
        box_px = _floats(part, [f"box_{side}_px" for side in ("x1", "y1", "x2", "y2")])
        found.append(FaceTrack(int(track[first]), time_s, end_s, box_px, _floats(part, list(EXPRESSION_COLOURS))))
    return sorted(found, key=lambda face: (-len(face.time_s), face.track_id))


def _floats(rows: pa.Table, names: list[str]) -> np.ndarray:
    return np.stack([rows[name].to_numpy() for name in names], axis=1).astype(np.float64)
