"""Tracks that a person split: which piece of which track a number stands for, and where edits stand among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.delta.relations import read_errors, relation_sql, rows_of, shared_connection
from storage.lake import Lake
from storage.sql.corrections import BASIC_VIEWS

__all__ = ["TrackSplit", "finite", "shown_spans", "splits_of"]


@dataclass(frozen=True)
class TrackSplit:
    """A piece of a track as the tracker found it, from ``from_s`` until before ``until_s`` (infinite at the ends).

    ``number`` is what the views call it; a track that nobody split is one piece. ``start_s`` and ``end_s`` are when the
    face was seen in it.
    """

    number: int
    found_track_id: int
    from_s: float
    until_s: float
    start_s: float
    end_s: float


def splits_of(lake: Lake, video_id: str, faces_id: str) -> tuple[list[TrackSplit], int]:
    """Every piece of one video's tracks with these faces, by number, and a number that was never used."""
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
    pieces = []
    for row in found:
        own = [cut for cut in cuts if cut["track_id"] == row["track_id"]]
        begins = [(row["track_id"], -math.inf), *((cut["piece"], cut["start_s"]) for cut in own)]
        ends = [begin for _, begin in begins[1:]] + [math.inf]
        for (number, from_s), until_s in zip(begins, ends, strict=True):
            seen = max(row["start_s"], from_s), min(row["end_s"], until_s)
            pieces.append(TrackSplit(number, row["track_id"], from_s, until_s, *seen))
    return sorted(pieces, key=lambda piece: piece.number), free


def shown_spans(edit: Mapping[str, Any], pieces: Sequence[TrackSplit]) -> list[dict[str, Any]]:
    """Where an edit stands among the faces as the views number them: ``track_id``, ``start_s`` and ``end_s``, a span
    for each face that it touches. ``track_id`` None is the whole picture; a time None is an end of the video."""
    number, start_s, end_s = edit["track_id"], edit["start_s"], edit["end_s"]
    if number is None:
        return [{"track_id": None, "start_s": start_s, "end_s": end_s}]
    if edit["kind"] == "split":  # the face that ends there
        ends_there = (piece for piece in pieces if piece.found_track_id == number and piece.until_s == start_s)
        return [{"track_id": piece.number, "start_s": start_s, "end_s": None} for piece in ends_there]
    if edit["kind"] != "exclude":
        known = any(piece.number == number for piece in pieces)
        return [{"track_id": number, "start_s": start_s, "end_s": end_s}] if known else []
    first, last = -math.inf if start_s is None else start_s, math.inf if end_s is None else end_s
    spans = []
    for piece in pieces:
        from_s, until_s = max(first, piece.from_s), min(last, piece.until_s)
        if piece.found_track_id == number and from_s < until_s:
            spans.append({"track_id": piece.number, "start_s": finite(from_s), "end_s": finite(until_s)})
    return spans


def finite(seconds: float) -> float | None:
    """None for an end that is open."""
    return seconds if math.isfinite(seconds) else None
