"""Who is who: what ``mfer people find`` needs of a lake, what it writes, and how that is accepted or taken back.

A found person is an edit of kind ``person`` per track, with the same value, its ``confidence`` and the author
``FINDER``. What people said is a condition for whatever is found, and comes before it in the views.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from storage.delta.relations import Connection, quote, read_errors, relation_sql, rows_of, shared_connection
from storage.delta.tables import append_once, lock
from storage.lake import Lake
from storage.schema import LANDMARKS, TABLES
from storage.sql.corrections import BASIC_VIEWS
from storage.sql.selection import ChosenVideo

__all__ = [
    "FINDER",
    "FoundTrack",
    "TrackFaces",
    "TrackKey",
    "WhatPeopleSaid",
    "accept_person",
    "faces_of_tracks",
    "forget_found",
    "found_tracks",
    "keep_embeddings",
    "kept_embeddings",
    "person_id_of",
    "propose",
    "what_people_said",
]

#: Author of what was found.
FINDER = "mfer people find"
#: video_id, faces_id and track_id.
TrackKey = tuple[str, str, int]
_PERSON_ID_DIGITS = 16


@dataclass(frozen=True)
class TrackFaces:
    """The F faces of a track that can be trusted, by time: ``frame_index``, ``face_index`` int64 [F], ``pts_s``,
    ``time_s``, ``face_px``, ``sharpness`` float64 [F], and ``landmarks_px`` float32 [F,5,2] in the upright frame."""

    key: TrackKey
    frame_index: np.ndarray
    face_index: np.ndarray
    pts_s: np.ndarray
    time_s: np.ndarray
    face_px: np.ndarray
    sharpness: np.ndarray
    landmarks_px: np.ndarray

    def __len__(self) -> int:
        return len(self.frame_index)


def faces_of_tracks(
    con: Connection, video: ChosenVideo, min_face_px: float
) -> tuple[list[TrackFaces], set[tuple[TrackKey, TrackKey]], int]:
    """The tracks of a video with faces of good quality, by number, every pair of them that shares a frame, and how many
    tracks have no such face.

    Splits and exclusions count as the view ``scores`` has them; ``con`` is from ``storage.sql.views.connect``.
    """
    points = [f"{point}_{axis}_px" for point in LANDMARKS for axis in "xy"]
    of_video = f"FROM scores WHERE video_id = {quote(video.video_id)}"
    rows = rows_of(
        con,
        f"SELECT track_id, frame_index, face_index, pts_s, time_s, face_px, sharpness, {', '.join(points)} {of_video}"
        f" AND quality_ok AND face_px >= {float(min_face_px)} ORDER BY track_id, frame_index",
    )
    pairs = con.execute(
        f"SELECT DISTINCT a.track_id, b.track_id FROM (SELECT track_id, frame_index {of_video}) a"
        f" JOIN (SELECT track_id, frame_index {of_video}) b USING (frame_index) WHERE a.track_id < b.track_id"
    ).fetchall()
    n_tracks = int(con.execute(f"SELECT count(DISTINCT track_id) {of_video}").fetchall()[0][0])

    def column(name: str, kind: type) -> np.ndarray:
        return rows[name].to_numpy().astype(kind)

    track = column("track_id", np.int64)
    landmarks = np.stack([column(name, np.float32) for name in points], axis=1).reshape(-1, 5, 2)
    names = ("frame_index", "face_index", "pts_s", "time_s", "face_px", "sharpness")
    columns = {name: column(name, np.int64 if name.endswith("index") else np.float64) for name in names}
    tracks = []
    for number in np.unique(track).tolist():
        own = track == number
        key = (video.video_id, video.faces_id, number)
        parts = {name: values[own] for name, values in columns.items()}
        tracks.append(TrackFaces(key, **parts, landmarks_px=landmarks[own]))
    known = {face.key[2] for face in tracks}
    apart = {
        ((video.video_id, video.faces_id, a), (video.video_id, video.faces_id, b))
        for a, b in pairs
        if a in known and b in known
    }
    return tracks, apart, n_tracks - len(tracks)


@dataclass(frozen=True)
class WhatPeopleSaid:
    """By people, of tracks: ``merges`` are pairs that are one person; ``names`` and ``persons`` map a track to what it
    was called and to the id of the person that was accepted for it: tracks with equal ones are one person, with
    different ones two. ``alone`` are tracks of nobody else, but for merges and names."""

    merges: Collection[tuple[TrackKey, TrackKey]] = ()
    names: Mapping[TrackKey, str] = field(default_factory=dict)
    persons: Mapping[TrackKey, str] = field(default_factory=dict)
    alone: Collection[TrackKey] = ()


@dataclass(frozen=True)
class FoundTrack:
    """Whom a track was taken for (the id of a person), and how sure that is (0..1); ``edit_id`` where it is written."""

    key: TrackKey
    person_id: str
    confidence: float
    edit_id: str = ""


#: Edits about a person: those by people, and those by ``mfer people find``, which alone say how sure they are.
_BY_PEOPLE = "kind IN ('name', 'merge', 'person') AND confidence IS NULL"
_BY_FINDER = "kind = 'person' AND confidence IS NOT NULL"


def _standing(lake: Lake, condition: str) -> list[dict[str, Any]]:
    """The standing edits of tracks that fit a condition, in the order in which they were made."""
    with read_errors(lake.location), shared_connection() as con:
        standing = BASIC_VIEWS["standing_edits"].replace("raw.edits", f"({relation_sql(lake.location, 'edits')})")
        rows: list[dict[str, Any]] = rows_of(
            con,
            f"SELECT * FROM ({standing}) WHERE {condition} AND track_id IS NOT NULL ORDER BY created_utc, edit_id",
        ).to_pylist()
    return rows


def _key(row: Mapping[str, Any]) -> TrackKey:
    return row["video_id"], row["faces_id"], row["track_id"]


def what_people_said(lake: Lake) -> WhatPeopleSaid:
    """Names, merges and persons by people that stand; of several names of a track the last one counts."""
    rows = _standing(lake, _BY_PEOPLE)
    merges = {(_key(row), (*_key(row)[:2], int(row["value"]))) for row in rows if row["kind"] == "merge"}
    names, persons = ({_key(row): row["value"] for row in rows if row["kind"] == kind} for kind in ("name", "person"))
    alone = {key for key, value in persons.items() if value is None}
    return WhatPeopleSaid(merges, names, {key: v for key, v in persons.items() if key not in alone}, alone)


def _found(lake: Lake, video_ids: Collection[str] | None) -> list[FoundTrack]:
    rows = (row for row in _standing(lake, _BY_FINDER) if video_ids is None or row["video_id"] in video_ids)
    return [FoundTrack(_key(row), row["value"], row["confidence"], row["edit_id"]) for row in rows]


def found_tracks(lake: Lake, video_ids: Collection[str] | None = None) -> dict[TrackKey, FoundTrack]:
    """What was found and stands, by track; of these videos, or of all."""
    return {track.key: track for track in _found(lake, video_ids)}


def propose(lake: Lake, found: Iterable[FoundTrack], video_ids: Collection[str]) -> tuple[int, int]:
    """Write whom the tracks of some videos were taken for, in place of what was found before, in one commit.

    What was found before and holds is left as it is, so that the same answer twice writes nothing, also where two write
    it at once.

    Returns:
        How many tracks were written, and how many were taken back.
    """
    wanted = {(track.key, track.person_id, track.confidence): track for track in found}
    with lock(lake.location, exclusive=True):
        gone = []
        for old in _found(lake, video_ids):
            if wanted.pop((old.key, old.person_id, old.confidence), None) is None:
                gone.append(old)
        new = [wanted[key] for key in sorted(wanted)]
        rows = [_undo(track, FINDER) for track in gone] + [_person(track, FINDER) for track in new]
        _write(lake, rows)
    return len(new), len(gone)


def forget_found(lake: Lake, video_ids: Collection[str] | None, author: str) -> int:
    """Take back what was found, of these videos or of all; what people accepted stays. Returns of how many tracks."""
    with lock(lake.location, exclusive=True):
        gone = _found(lake, video_ids)
        _write(lake, [_undo(track, author) for track in gone])
    return len(gone)


def _undo(track: FoundTrack, author: str) -> dict[str, Any]:
    return {"video_id": track.key[0], "kind": "undo", "value": track.edit_id, "author": author}


def _person(track: FoundTrack, author: str) -> dict[str, Any]:
    video_id, faces_id, track_id = track.key
    found = {"kind": "person", "value": track.person_id, "confidence": track.confidence, "author": author}
    return {"video_id": video_id, "faces_id": faces_id, "track_id": track_id, **found}


def _write(lake: Lake, rows: Sequence[dict[str, Any]]) -> None:
    """Append edits in one commit; the caller holds the exclusive lock."""
    if rows:
        now = datetime.now(UTC)
        full = [{**row, "edit_id": uuid.uuid4().hex, "created_utc": now} for row in rows]
        table = pa.Table.from_pylist(full, schema=TABLES["edits"].schema)
        append_once(lake.location, "edits", {uuid.uuid4().hex: table}, held=True)


def person_id_of(keys: Iterable[TrackKey]) -> str:
    """The id of a person who is seen in these tracks: the same whoever finds them, and it names no video."""
    first = "/".join(map(str, min(keys)))
    return hashlib.sha256(f"person/{first}".encode()).hexdigest()[:_PERSON_ID_DIGITS]


def accept_person(lake: Lake, video_id: str, person_id: str, author: str) -> int:
    """Say that a found person is right in a video: its tracks are kept when what was found is taken back.

    Returns:
        The number of tracks.

    Raises:
        ValueError: no such person was found in the video.
    """
    with lock(lake.location, exclusive=True):
        statements = what_people_said(lake)
        found = found_tracks(lake, [video_id]).values()
        tracks = [
            t for t in found if t.person_id == person_id and t.key not in {*statements.persons, *statements.alone}
        ]
        if not tracks:
            raise ValueError(f"nobody with the id {person_id!r} was found in this video and waits to be accepted")
        _write(lake, [_person(track, author) | {"confidence": None} for track in tracks])
    return len(tracks)


def keep_embeddings(
    lake: Lake,
    key: tuple[str, str],
    network: str,
    faces: Mapping[int, tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> None:
    """Store the embeddings of a video's tracks, once: they are biometric data, so only where somebody asked for it.

    Args:
        lake: where.
        key: video_id and faces_id.
        network: what embedded them.
        faces: of each track the ``frame_index`` and ``face_index`` int64 [F] of its faces and float32 [F,D].
    """
    video_id, faces_id = key
    rows = [
        {
            "video_id": video_id,
            "faces_id": faces_id,
            "track_id": track_id,
            "frame_index": frame,
            "face_index": face,
            "network": network,
            "embedding": embedding,
            "created_utc": datetime.now(UTC),
        }
        for track_id, (frames, indices, embeddings) in sorted(faces.items())
        for frame, face, embedding in zip(frames.tolist(), indices.tolist(), embeddings.tolist(), strict=True)
    ]
    mark = hashlib.sha256(repr([(row["track_id"], row["frame_index"], row["face_index"]) for row in rows]).encode())
    table = pa.Table.from_pylist(rows, schema=TABLES["embeddings"].schema)
    lake.append("embeddings", table, transaction=f"{video_id}/{faces_id}/{network}/{mark.hexdigest()[:16]}")


def kept_embeddings(lake: Lake, key: tuple[str, str], network: str) -> dict[tuple[int, int], np.ndarray]:
    """What was kept of a video, by frame_index and face_index: float32 [D] each."""
    with read_errors(lake.location), shared_connection() as con:
        source = relation_sql(lake.location, "embeddings", video_ids=[key[0]])
        rows = rows_of(
            con,
            f"SELECT frame_index, face_index, embedding FROM ({source})"
            " WHERE video_id = ? AND faces_id = ? AND network = ?",
            [*key, network],
        ).to_pylist()
    return {(row["frame_index"], row["face_index"]): np.array(row["embedding"], np.float32) for row in rows}
