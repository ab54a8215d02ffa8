"""What is drawn of a face over time: spans without gaps, smoothing, a baseline, and fewer points where many are."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from storage.schema import EXPRESSIONS
from storage.sql.statistics import baseline, smooth
from storage.summary import SPEAKING_MOTION, SPEAKING_SHARE

__all__ = [
    "FRAME_STATUSES",
    "Curves",
    "Frames",
    "read_curves",
    "read_frames",
    "smooth",
    "speaking_spans",
    "uncertain_spans",
    "view_of",
]

FRAME_STATUSES = ("ok", "no_face", "decode_error")
#: A frame's end and the next one's start may differ by this share of its duration and still touch.
_TOUCH = 0.6


@dataclass(frozen=True)
class Frames:
    """The N sampled frames of a video by time: time_s and duration_s float64, frame_index int64, status int8
    (an index of ``FRAME_STATUSES``)."""

    time_s: np.ndarray
    duration_s: np.ndarray
    frame_index: np.ndarray
    status: np.ndarray


@dataclass(frozen=True)
class Curves:
    """One track's N faces by time.

    time_s, duration_s float64 [N]; prob float32 [N,8] in the order of ``EXPRESSIONS``, NaN where the model lacks the
    class; ok bool [N] (``quality_ok``); mouth_motion float32 [N], NaN where unknown; frame_index, face_index int64 [N];
    box_px float32 [N,4].
    """

    track_id: int
    time_s: np.ndarray
    duration_s: np.ndarray
    prob: np.ndarray
    ok: np.ndarray
    mouth_motion: np.ndarray
    frame_index: np.ndarray
    face_index: np.ndarray
    box_px: np.ndarray
    _smoothed: dict[float, np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.time_s)

    def smoothed(self, window_s: float) -> np.ndarray:
        """``storage.sql.statistics.smooth`` of the probabilities, float32 [N,8], kept for the last window asked for."""
        if window_s not in self._smoothed:
            self._smoothed.clear()
            self._smoothed[window_s] = smooth(self.time_s, self.duration_s, self.prob, window_s)
        return self._smoothed[window_s]

    def baseline(self) -> np.ndarray:
        """What is usual for this face, float64 [8]; see ``storage.sql.statistics.baseline``."""
        return baseline(self.time_s, self.duration_s, self.prob, self.ok)


def _floats(table: pa.Table, name: str, kind: Any = np.float64) -> np.ndarray:
    return table[name].to_numpy().astype(kind)


def read_curves(rows: pa.Table) -> dict[int, Curves]:
    """Rows of ``scores_all`` of one analysis of one video, in order of track_id and time_s, as a track's number to its
    curves."""
    track = _floats(rows, "track_id", np.int64)
    columns: dict[str, Any] = {
        "time_s": _floats(rows, "time_s"),
        "duration_s": _floats(rows, "duration_s"),
        "prob": np.stack([_floats(rows, f"p_{name}", np.float32) for name in EXPRESSIONS], axis=1),
        "ok": np.asarray(rows["quality_ok"].fill_null(False)),
        "mouth_motion": _floats(rows, "mouth_motion", np.float32),
        "frame_index": _floats(rows, "frame_index", np.int64),
        "face_index": _floats(rows, "face_index", np.int64),
        "box_px": np.stack([_floats(rows, f"box_{side}_px", np.float32) for side in ("x1", "y1", "x2", "y2")], axis=1),
    }
    starts = np.flatnonzero(np.diff(track, prepend=track[:1] - 1))
    return {
        int(track[first]): Curves(int(track[first]), **{name: values[first:end] for name, values in columns.items()})
        for first, end in pairwise(np.append(starts, len(track)))
    }


def read_frames(rows: pa.Table) -> Frames:
    """Rows of ``frames`` of one video, in order of time_s."""
    status = rows["frame_status"].to_pylist()
    return Frames(
        _floats(rows, "time_s"),
        _floats(rows, "duration_s"),
        _floats(rows, "frame_index", np.int64),
        np.array([FRAME_STATUSES.index(name) for name in status], dtype=np.int8),
    )


def uncertain_spans(curves: Curves, from_s: float, to_s: float, least_s: float) -> list[tuple[float, float]]:
    """Spans in which the quality does not allow to trust the scores; those closer than ``least_s`` are one."""
    shown = slice(*np.searchsorted(curves.time_s, [from_s, to_s]))
    doubtful = ~curves.ok[shown]
    start_s = curves.time_s[shown][doubtful]
    end_s = start_s + curves.duration_s[shown][doubtful]
    if not len(start_s):
        return []
    parted = np.flatnonzero(start_s[1:] - end_s[:-1] > max(least_s, 1e-3)) + 1
    first, last = np.append(0, parted), np.append(parted - 1, len(start_s) - 1)
    return [(float(a), float(b)) for a, b in zip(start_s[first], end_s[last], strict=True)]


def speaking_spans(curves: Curves, from_s: float, to_s: float) -> list[tuple[float, float]]:
    """Spans of whole seconds in which ``speaking`` of the view ``seconds`` is at least SPEAKING_SHARE."""
    known = np.isfinite(curves.mouth_motion)
    seconds, at = np.unique(np.floor(curves.time_s[known]), return_inverse=True)
    known_s, speaks = curves.duration_s[known], curves.mouth_motion[known] > SPEAKING_MOTION
    share = np.bincount(at, known_s * speaks) / np.maximum(np.bincount(at, known_s), 1e-9)
    spoken = seconds[share >= SPEAKING_SHARE]
    spans = [(run[0], run[-1] + 1) for run in np.split(spoken, np.flatnonzero(np.diff(spoken) > 1) + 1) if len(run)]
    return [(float(a), float(b)) for a, b in spans if b > from_s and a < to_s]


def view_of(curves: Curves, from_s: float, to_s: float, n_buckets: int, window_s: float) -> dict[str, Any]:
    """A track between two times for a picture of ``n_buckets`` columns, as JSON.

    Where there are more than two faces to a column, the raw curve keeps the lowest and highest value of each column,
    so that no peak is lost, and the smoothed curve its mean.

    Returns:
        ``raw_s`` and ``raw`` (class to values), ``smooth_s`` and ``smooth``, where None is a gap; ``uncertain``
        and ``speaking`` spans; ``exact``, whether every face is there.
    """
    first, last = np.searchsorted(curves.time_s, [from_s, to_s])
    shown = slice(max(int(first) - 1, 0), int(last) + 1)  # one more on each side: lines reach the edge
    time_s, duration_s, prob = curves.time_s[shown], curves.duration_s[shown], curves.prob[shown]
    smoothed = curves.smoothed(window_s)[shown]
    width_s = max(to_s - from_s, 1e-9) / n_buckets
    exact = len(time_s) <= 2 * n_buckets
    if exact:
        away = time_s[1:] - time_s[:-1] > (1 + _TOUCH) * np.maximum(duration_s[:-1], 1e-3)
        at = np.flatnonzero(away) + 1
        raw_s, raw = _part(time_s, prob, at)
        smooth_s, smoothed = _part(time_s, smoothed, at)
    else:
        bucket = np.floor((time_s - from_s) / width_s).astype(np.int64)
        starts = np.flatnonzero(np.diff(bucket, prepend=bucket[0] - 1))
        low, high = np.minimum.reduceat(prob, starts), np.maximum.reduceat(prob, starts)
        counts = np.diff(np.append(starts, len(bucket)))
        mean = np.add.reduceat(smoothed, starts) / counts[:, None]
        middle_s = from_s + (bucket[starts] + 0.5) * width_s
        pairs = np.stack([low, high], axis=1).reshape(-1, prob.shape[1])
        pair_s = np.stack([middle_s - width_s / 4, middle_s + width_s / 4], axis=1).ravel()
        at = np.flatnonzero(np.diff(bucket[starts]) > 1) + 1
        raw_s, raw = _part(pair_s, pairs, 2 * at)
        smooth_s, smoothed = _part(middle_s, mean, at)
    return {
        "track_id": curves.track_id,
        "exact": exact,
        "raw_s": _plain(raw_s, 4),
        "raw": {name: _plain(raw[:, k], 3) for k, name in enumerate(EXPRESSIONS)},
        "smooth_s": _plain(smooth_s, 4),
        "smooth": {name: _plain(smoothed[:, k], 3) for k, name in enumerate(EXPRESSIONS)},
        "uncertain": uncertain_spans(curves, from_s, to_s, width_s),
        "speaking": speaking_spans(curves, from_s, to_s),
    }


def _part(time_s: np.ndarray, values: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put a NaN before each of the places ``at``, which breaks the line there."""
    between_s = (time_s[at - 1] + time_s[at]) / 2
    return np.insert(time_s, at, between_s), np.insert(values.astype(np.float64), at, np.nan, axis=0)


def _plain(values: np.ndarray, digits: int) -> list[float | None]:
    rounded = np.round(values.astype(np.float64), digits)
    return [None if value != value else value for value in rounded.tolist()]
