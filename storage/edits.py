"""What people add to a lake: judgements on faces, and names, merges, events and excluded stretches of a video.

They stand beside the scores, never in them. Nothing is changed or deleted: a later row takes an earlier one back.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from storage.lake import Lake
from storage.schema import EXPRESSIONS, TABLES

__all__ = [
    "EDITS_SQL",
    "EDIT_KINDS",
    "EDIT_VIEWS",
    "LABELS_SQL",
    "PEOPLE_SQL",
    "VERDICTS",
    "add_edit",
    "add_label",
    "undo_edit",
]

EDIT_KINDS = ("name", "merge", "event", "exclude")
#: ``withdrawn`` takes the rater's earlier judgement of the same face back.
VERDICTS = ("expression", "not_a_face", "undecided", "withdrawn")

#: What holds, in the schema ``raw``: edits that nobody took back, and the excluded stretches, one row per track and
#: stretch, so that the views can leave them out by an equi-join, which costs nothing where there are none.
EDIT_VIEWS = {
    "standing_edits": """
        SELECT * FROM raw.edits WHERE kind <> 'undo'
        AND edit_id NOT IN (SELECT value FROM raw.edits WHERE kind = 'undo' AND value IS NOT NULL)
    """,
    "excluded": """
        SELECT DISTINCT t.video_id, t.analysis_id, t.track_id,
               coalesce(e.start_s, '-inf'::DOUBLE) AS from_s, coalesce(e.end_s, 'inf'::DOUBLE) AS until_s
        FROM raw.standing_edits e JOIN raw.tracks t ON t.video_id = e.video_id
             AND (e.track_id IS NULL OR (e.track_id = t.track_id AND e.faces_id = t.faces_id))
        WHERE e.kind = 'exclude'
    """,
}
#: The public views of that name.
LABELS_SQL = """
    WITH last AS (
        SELECT * FROM raw.labels QUALIFY row_number() OVER (
            PARTITION BY video_id, faces_id, frame_index, face_index, rater ORDER BY created_utc DESC, label_id
        ) = 1
    )
    SELECT f.file_name, l.* FROM last l LEFT JOIN raw.finished f ON l.video_id = f.video_id AND f.chosen
    WHERE l.verdict IS DISTINCT FROM 'withdrawn'
"""
EDITS_SQL = """
    SELECT f.file_name, e.* FROM raw.standing_edits e LEFT JOIN raw.finished f ON e.video_id = f.video_id AND f.chosen
"""
PEOPLE_SQL = """
    WITH said AS (
        SELECT file_name, video_id, faces_id, track_id,
               arg_max(value, created_utc) FILTER (kind = 'name') AS name,
               CAST(arg_max(value, created_utc) FILTER (kind = 'merge') AS INTEGER) AS same_as
        FROM edits WHERE kind IN ('name', 'merge') GROUP BY ALL
    )
    SELECT s.file_name, s.track_id, coalesce(s.same_as, s.track_id) AS person, coalesce(s.name, o.name) AS name,
           s.video_id, s.faces_id
    FROM said s LEFT JOIN said o ON s.video_id = o.video_id AND s.faces_id = o.faces_id AND s.same_as = o.track_id
"""


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
    """Write that a person named or merged a track, marked an event or excluded a stretch.

    Args:
        lake: where.
        video_id: the video.
        kind: ``name`` (``value``: the name) and ``merge`` (``value``: the number of the track that is the same
            person) are about a track; ``event`` (``value``: its text) is at ``start_s``, or lasts until ``end_s``;
            ``exclude`` is a stretch, or all of it, of a track, or of the whole picture where ``track_id`` is None.
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
    if kind in ("name", "merge") and track_id is None:
        raise ValueError(f"to {kind} needs a track_id")
    if track_id is not None and faces_id is None:
        raise ValueError("a track_id needs the faces_id whose tracks it numbers")
    if kind in ("name", "event") and not (value or "").strip():
        raise ValueError(f"{'a name' if kind == 'name' else 'an event'} needs a text")
    if kind == "merge" and (not (value or "").lstrip("-").isdigit() or int(value or "") == track_id):
        raise ValueError(f"to merge needs the number of another track, got {value!r}")
    if kind == "event" and start_s is None:
        raise ValueError("an event needs a start_s")
    if start_s is not None and end_s is not None and end_s <= start_s:
        raise ValueError(f"a stretch that ends at {end_s} s, which is not after its start at {start_s} s")
    fields = {"faces_id": faces_id, "track_id": track_id, "value": value, "start_s": start_s, "end_s": end_s}
    return _append(lake, "edits", "edit_id", {"video_id": video_id, "kind": kind, "author": author, **fields})


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
