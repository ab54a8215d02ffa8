"""Tracks over a seam: which tracks of two neighbouring segments follow one face.

The limits are those of the tracker, so that a face is followed over a seam as it is within a segment. They come from
the settings that ``faces_id`` is a hash of, as is ``STITCH_VERSION``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

__all__ = ["SPAN_MAX_GAP_S", "STITCH_VERSION", "TIME_DIGITS", "SeamLimits", "TrackPiece", "join_segments"]

#: Bump when the same limits would join other tracks, or when SPAN_MAX_GAP_S changes. Part of ``faces_id``.
STITCH_VERSION = 3
#: Within a track: a face unseen for longer ends a span of one expression, an episode, and a smoothed curve.
SPAN_MAX_GAP_S = 0.5
#: Differences of times are compared with a limit after rounding to microseconds: of 24 frames a second, twelve last
#: 0.49999999999999994 s as often as 0.5 s.
TIME_DIGITS = 6
#: Times of neighbouring frames differ from the sum of time and duration by rounding.
_ROUNDING_S = 1e-3

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class SeamLimits:
    """``min_iou``: overlap of the boxes on both sides of a seam from which they may be one face. ``max_gap_s``: a face
    unseen for longer starts a new track; neighbouring samples may lie further apart."""

    min_iou: float
    max_gap_s: float

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> SeamLimits:
        """The limits in the settings that a ``faces_id`` is a hash of. Raises ValueError where they are missing."""
        try:
            tracker = settings["tracker"]
            return cls(float(tracker["min_iou"]), float(tracker["max_gap_s"]))
        except (KeyError, TypeError) as error:
            message = f"the settings of an analysis lack tracker.min_iou or tracker.max_gap_s: {error}"
            raise ValueError(message) from None


@dataclass(frozen=True)
class TrackPiece:
    """One segment's track: times of its first and last face, the end of the last frame, first and last box in px."""

    segment: int
    track: int
    start_s: float
    last_s: float
    end_s: float
    first_box_px: Box
    last_box_px: Box

    def __post_init__(self) -> None:
        if self.end_s < self.start_s:
            raise ValueError(f"a track that ends at {self.end_s} s before it starts at {self.start_s} s")


def _iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _touches(earlier: TrackPiece, later: TrackPiece, limits: SeamLimits) -> bool:
    """Whether the later piece starts soon enough after the earlier, or with the next sample."""
    unseen_s = abs(later.start_s - earlier.last_s)
    return unseen_s <= limits.max_gap_s or abs(later.start_s - earlier.end_s) <= _ROUNDING_S


def join_segments(pieces: Sequence[TrackPiece], limits: SeamLimits) -> dict[tuple[int, int], int]:
    """Number the tracks of a video from the tracks of its segments.

    Pieces on both sides of a seam are one track where they lie within the limits, best overlap first, ties by number.
    The first segment keeps its numbers; a track that begins later takes the next free one. The order of ``pieces``
    does not matter.

    Returns:
        (segment, track) to track_id; pieces of one segment never share a track_id.
    """
    ordered = sorted(pieces, key=lambda piece: (piece.segment, piece.track))
    segments = [list(group) for _, group in groupby(ordered, key=lambda piece: piece.segment)]
    if not segments:
        return {}
    track_ids = {(piece.segment, piece.track): piece.track for piece in segments[0]}
    free = max(track_ids.values()) + 1
    for earlier, later in pairwise(segments):
        candidates = [
            (-iou, a.track, b.track)
            for a in earlier
            for b in later
            if b.segment == a.segment + 1
            and _touches(a, b, limits)
            and (iou := _iou(a.last_box_px, b.first_box_px)) >= limits.min_iou
        ]
        continued: dict[int, int] = {}
        for _, track_before, track in sorted(candidates):
            if track not in continued and track_before not in continued.values():
                continued[track] = track_before
        for piece in later:
            if piece.track in continued:
                track_id = track_ids[piece.segment - 1, continued[piece.track]]
            else:
                track_id, free = free, free + 1
            track_ids[piece.segment, piece.track] = track_id
    return track_ids
