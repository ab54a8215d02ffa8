"""The faces of a video at any moment, from what the lake has of its sampled frames."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from dashboards.outputs.palette import EXPRESSION_COLOURS
from storage.delta.relations import Connection, rows_of

__all__ = ["FaceTrack", "names_of", "read_face_tracks"]

#: A face that was missed for no longer is where a line between its two places says, as far as hiding it goes.
_MAX_MISSED_S = 1.0
#: A face is hidden for this long before it was first found and after it was last found: the detector is late.
_AROUND_S = 0.4


@dataclass(frozen=True)
class FaceTrack:
    """One face at its N sampled frames: time_s and end_s float64 [N] (until when a sample holds), box_px float64 [N,4],
    prob float64 [N,8] in the order of ``EXPRESSION_COLOURS``, 0 where the model lacks the class. ``name`` is what a
    person called it, or empty."""

    track_id: int
    time_s: np.ndarray
    end_s: np.ndarray
    box_px: np.ndarray
    prob: np.ndarray
    name: str = ""

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


def names_of(con: Connection, video_id: str) -> dict[int, str]:
    """What a report calls the tracks that a person named or merged: ``Ann (face 3)``, ``face 4 = face 3``."""
    rows = rows_of(con, "SELECT track_id, person, name FROM people WHERE video_id = ?", [video_id]).to_pylist()
    return {
        row["track_id"]: f"{row['name']} (face {row['track_id']})"
        if row["name"]
        else f"face {row['track_id']}" + (f" = face {row['person']}" if row["person"] != row["track_id"] else "")
        for row in rows
    }


def read_face_tracks(con: Connection, video_id: str, *, as_found: bool = False) -> list[FaceTrack]:
    """The tracks of a video, the longest first; ``as_found``: also what a person excluded, and nobody's name."""
    columns = ", ".join(f"coalesce(p_{name}, 0) AS {name}" for name in EXPRESSION_COLOURS)
    rows = rows_of(
        con,
        f"SELECT track_id, time_s, time_s + duration_s AS end_s, box_x1_px, box_y1_px, box_x2_px, box_y2_px, {columns}"
        f" FROM {'scores_all' if as_found else 'scores'} WHERE video_id = ? {'AND chosen' if as_found else ''}"
        " ORDER BY track_id, time_s",
        [video_id],
    )
    people = rows_of(con, "SELECT track_id, name FROM people WHERE video_id = ?", [video_id]).to_pylist()
    names = {} if as_found else {row["track_id"]: row["name"] or "" for row in people}
    track = _floats(rows, ["track_id"])[:, 0].astype(int)
    edges = np.append(np.flatnonzero(np.diff(track, prepend=-1)), len(track))
    found = []
    for first, end in pairwise(edges):
        part = rows.slice(first, end - first)
        time_s, end_s = _floats(part, ["time_s", "end_s"]).T
        box_px = _floats(part, [f"box_{side}_px" for side in ("x1", "y1", "x2", "y2")])
        prob, number = _floats(part, list(EXPRESSION_COLOURS)), int(track[first])
        found.append(FaceTrack(number, time_s, end_s, box_px, prob, names.get(number, "")))
    return sorted(found, key=lambda face: (-len(face.time_s), face.track_id))


def _floats(rows: pa.Table, names: list[str]) -> np.ndarray:
    return np.stack([rows[name].to_numpy() for name in names], axis=1).astype(np.float64)
