"""Tracks that a person split: which piece of which track a number stands for, and which numbers are free."""

from __future__ import annotations

import math
from dataclasses import dataclass

from storage.delta.relations import read_errors, relation_sql, rows_of, shared_connection
from storage.lake import Lake
from storage.sql.corrections import BASIC_VIEWS

__all__ = ["TrackSplit", "find_split"]


@dataclass(frozen=True)
class TrackSplit:
    """A piece of a track as the tracker found it, from ``from_s`` until before ``until_s`` (infinite at the ends).

    ``start_s`` and ``end_s`` are when the face was seen in it, ``free_number`` is a track_id that was never used.
    """

    found_track_id: int
    from_s: float
    until_s: float
    start_s: float
    end_s: float
    free_number: int


def find_split(lake: Lake, video_id: str, faces_id: str, number: int) -> TrackSplit | None:
    """The piece that the views call ``number``, of one video's tracks with these faces; None: there is none."""
    with read_errors(lake.location), shared_connection() as con:
        edits, tracks = (relation_sql(lake.location, name, video_ids=[video_id]) for name in ("edits", "tracks"))
        standing = BASIC_VIEWS["standing_edits"].replace("raw.edits", f"({edits})")
        of_video = [video_id, faces_id]
        found = rows_of(
            con,
            f"SELECT track_id, min(start_s) AS start_s, max(end_s) AS end_s FROM ({tracks})"
            " WHERE video_id = ? AND faces_id = ? GROUP BY track_id",
            of_video,
        ).to_pylist()
        cuts = rows_of(
            con,
            f"SELECT track_id, start_s, CAST(value AS INTEGER) AS piece FROM ({standing})"
            " WHERE video_id = ? AND faces_id = ? AND kind = 'split' ORDER BY start_s, created_utc",
            of_video,
        ).to_pylist()
        used = rows_of(
            con,
            f"SELECT max(CAST(value AS INTEGER)) AS piece FROM ({edits})"
            " WHERE video_id = ? AND faces_id = ? AND kind = 'split'",
            of_video,
        ).to_pylist()[0]["piece"]
    free = max([row["track_id"] for row in found] + [used if used is not None else -1], default=-1) + 1
    for row in found:
        own = [cut for cut in cuts if cut["track_id"] == row["track_id"]]
        begins = [(row["track_id"], -math.inf), *((cut["piece"], cut["start_s"]) for cut in own)]
        ends = [begin for _, begin in begins[1:]] + [math.inf]
        for (piece, from_s), until_s in zip(begins, ends, strict=True):
            if piece == number:
                seen = max(row["start_s"], from_s), min(row["end_s"], until_s)
                return TrackSplit(row["track_id"], from_s, until_s, *seen, free)
    return None
