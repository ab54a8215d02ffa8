"""One track from the tracks of a video's segments: pieces on both sides of a seam that belong to one face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

__all__ = ["TrackPiece", "join_segments"]

#: Boxes on both sides of a seam that overlap less belong to different faces (SORT's threshold for neighbouring
#: frames, Bewley et al. 2016, doi 10.1109/ICIP.2016.7533003).
SEAM_MIN_IOU = 0.3
#: A track that ended longer before the seam is not continued: the tracker itself would have ended it.
SEAM_MAX_GAP_S = 0.5

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class TrackPiece:
    """One segment's track: when it was seen (end_s includes its last frame) and its first and last box, in px."""

    segment: int
    track: int
    start_s: float
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


def join_segments(pieces: Sequence[TrackPiece]) -> dict[tuple[int, int], int]:
    """Number the tracks of a video from the tracks of its segments.

    Pieces on both sides of a seam are the same track where the later starts at most SEAM_MAX_GAP_S after the end of
    the earlier and their boxes overlap by SEAM_MIN_IOU, best overlap first, ties by number. The first segment keeps
    its numbers; a track that begins later takes the next free one. The order of ``pieces`` does not matter.

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
            and abs(b.start_s - a.end_s) <= SEAM_MAX_GAP_S
            and (iou := _iou(a.last_box_px, b.first_box_px)) >= SEAM_MIN_IOU
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
