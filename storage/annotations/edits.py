"""What people add to a lake: judgements on faces, and names, merges, persons, events and excluded spans of a video.

They stand beside the scores, never in them. Nothing is changed or deleted: a later row takes an earlier one back.
"""

from __future__ import annotations

import math
import uuid
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from storage.annotations.track_splits import TrackSplit, finite, splits_of
from storage.lake import Lake
from storage.schema import EXPRESSIONS, TABLES

__all__ = [
    "EDIT_KINDS",
    "VERDICTS",
    "add_edit",
    "add_label",
    "undo_edit",
]

EDIT_KINDS = ("name", "merge", "split", "person", "event", "exclude")
#: ``withdrawn`` takes the rater's earlier judgement of the same face back.
VERDICTS = ("expression", "not_a_face", "undecided", "withdrawn")


def add_edit(
    lake: Lake,
    video_id: str,
    kind: str,
    *,
    faces_id: str | None = None,
    track_id: int | None = None,
    value: str | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    author: str = "",
) -> str:
    """Write that a person named, merged or split a track, marked an event or excluded a span.

    Args:
        lake: where.
        video_id: the video.
        kind: ``name`` (``value``: the name) and ``merge`` (``value``: the number of the track that is the same
            person) are about a track, and so is ``split``: from ``start_s`` on it is somebody else, whose new number
            becomes the edit's ``value``; ``person`` (no ``value``): the track is nobody that ``mfer people find``
            found, now or later; ``event`` (``value``: its text) is at ``start_s``, or lasts until ``end_s``;
            ``exclude`` is a span, or all of it, of a track, or of the whole picture where ``track_id`` is None.
            Splits and exclusions are kept under the number that the tracker gave.
        faces_id: the tracker's settings that the track's number belongs to; needed with ``track_id``.
        track_id: the track as the views number it.
        start_s, end_s: in ``time_s``, the end not included.
        author: who says so.

    Returns:
        The edit_id, for ``undo_edit``.

    Raises:
        ValueError: the parts do not make an edit; the message says why.
        LakeError: the lake cannot be written.
    """
    if kind not in EDIT_KINDS:
        raise ValueError(f"an edit is one of {', '.join(EDIT_KINDS)}, got {kind!r}")
    if kind in ("name", "merge", "split", "person") and track_id is None:
        raise ValueError(f"to {kind} needs a track_id")
    if track_id is not None and faces_id is None:
        raise ValueError("a track_id needs the faces_id whose tracks it numbers")
    if value is not None and not isinstance(value, str):
        raise ValueError(f"the value of an edit is text, got {value!r}")
    if kind in ("name", "event") and not (value or "").strip():
        raise ValueError(f"{'a name' if kind == 'name' else 'an event'} needs a text")
    if kind == "merge":
        value = _other_track(value, track_id)
    if kind == "person" and value is not None:
        raise ValueError(
            "who is found is accepted as a whole (accept_person); without a value a track is nobody of them"
        )
    if kind in ("event", "split") and start_s is None:
        raise ValueError(f"{'an event' if kind == 'event' else 'a split'} needs a start_s")
    if start_s is not None and end_s is not None and end_s <= start_s:
        raise ValueError(f"a span that ends at {end_s} s, which is not after its start at {start_s} s")
    fields = {"faces_id": faces_id, "track_id": track_id, "value": value, "start_s": start_s, "end_s": end_s}
    if track_id is not None and faces_id is not None:
        pieces, free_number = splits_of(lake, video_id, faces_id)
        piece = _piece(pieces, track_id)
        if kind == "merge":
            _piece(pieces, int(value or ""))
        elif kind == "split":
            fields |= _split(piece, start_s) | {"value": str(free_number)}
        elif kind == "exclude":
            fields |= _excluded(piece, start_s, end_s)
    return _append(lake, "edits", "edit_id", {"video_id": video_id, "kind": kind, "author": author, **fields})


def _other_track(value: str | None, track_id: int | None) -> str:
    """The number of the track that is the same person, as text."""
    number = (value or "").strip()
    if not (number.isascii() and number.isdigit()) or int(number) == track_id:
        raise ValueError(f"to merge needs the number of another track, got {value!r}")
    return str(int(number))


def _piece(pieces: list[TrackSplit], number: int) -> TrackSplit:
    for piece in pieces:
        if piece.number == number:
            return piece
    known = (
        f"its faces are {', '.join(str(piece.number) for piece in pieces)}" if pieces else "none with these settings"
    )
    raise ValueError(f"the video has no face {number}: {known}")


def _split(piece: TrackSplit, start_s: float | None) -> dict[str, Any]:
    """The track that is split, in the tracker's own number, which no later split changes."""
    if start_s is None or not piece.start_s < start_s < piece.end_s:
        raise ValueError(
            f"face {piece.number} is seen from {piece.start_s:.2f} to {piece.end_s:.2f} s: split it in between"
        )
    return {"track_id": piece.found_track_id, "end_s": None}


def _excluded(piece: TrackSplit, start_s: float | None, end_s: float | None) -> dict[str, Any]:
    """The track and span of an exclusion, in the tracker's own number."""
    from_s = max(piece.from_s, -math.inf if start_s is None else start_s)
    until_s = min(piece.until_s, math.inf if end_s is None else end_s)
    if until_s <= from_s:
        raise ValueError(f"face {piece.number} is not seen in that span")
    return {
        "track_id": piece.found_track_id,
        "start_s": finite(from_s),
        "end_s": finite(until_s),
    }


def undo_edit(lake: Lake, video_id: str, edit_id: str, author: str = "") -> str:
    """Take an edit back; the views forget it, the table keeps both. Returns the edit_id of the undoing."""
    fields = {"video_id": video_id, "kind": "undo", "value": edit_id, "author": author}
    return _append(lake, "edits", "edit_id", fields)


def add_label(lake: Lake, face: dict[str, Any], verdict: str, expression: str | None, rater: str, **more: Any) -> str:
    """Write a person's judgement on one face.

    Args:
        lake: where.
        face: video_id, faces_id, frame_index, time_s, face_index and track_id of the face.
        verdict: one of ``VERDICTS``.
        expression: the apparent expression with the verdict ``expression``, else None.
        rater: who judged; never empty.
        **more: ``shown_model_id`` and ``note``, where there are any.

    Returns:
        The label_id.

    Raises:
        ValueError: the parts do not make a judgement.
        LakeError: the lake cannot be written.
    """
    if verdict not in VERDICTS:
        raise ValueError(f"a verdict is one of {', '.join(VERDICTS)}, got {verdict!r}")
    if (verdict == "expression") != (expression in EXPRESSIONS):
        raise ValueError(f"the verdict {verdict!r} does not go with the expression {expression!r}")
    if not rater.strip():
        raise ValueError("a judgement needs to say who judged")
    fields = {"verdict": verdict, "expression": expression, "rater": rater.strip(), **face, **more}
    return _append(lake, "labels", "label_id", fields)


def _append(lake: Lake, table: str, key: str, fields: dict[str, Any]) -> str:
    name = uuid.uuid4().hex
    row = {key: name, "created_utc": datetime.now(UTC), **fields}
    lake.append(table, pa.Table.from_pylist([row], schema=TABLES[table].schema), transaction=name)
    return name
