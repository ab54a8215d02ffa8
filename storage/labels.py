"""Labels as a training run needs them: faces with the votes of their raters, where they lie, and whose video it is."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from storage.edits import VERDICTS
from storage.lake import Lake
from storage.objects import Place
from storage.originals import FILES_SQL, find_object, find_original
from storage.relations import read_errors, rows_of
from storage.schema import EXPRESSIONS, LANDMARKS, TABLES
from storage.views import connect

__all__ = ["Judgement", "LabelledFace", "LakeLabels", "Refusal", "add_labels", "read_labels", "uncertain_faces"]

_MARKS = [f"{point}_{axis}_px" for point in LANDMARKS for axis in "xy"]
_BOX = [f"box_{side}_px" for side in ("x1", "y1", "x2", "y2")]


@dataclass(frozen=True)
class LabelledFace:
    """A face that people judged: where it lies in its video, and how many raters named each expression.

    ``box_px`` is x1, y1, x2, y2, ``landmarks_px`` five times x, y, both in pixels of the upright frame.
    """

    video_id: str
    faces_id: str
    frame_index: int
    face_index: int
    track_id: int
    pts_s: float
    votes: Mapping[str, int]
    box_px: tuple[float, ...]
    landmarks_px: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.video_id}/{self.frame_index}/{self.face_index}"


@dataclass(frozen=True)
class LakeLabels:
    """The labelled faces of a lake. ``dropped`` counts those that are no use, by reason; ``files`` are rows of paths by
    video; ``persons`` the names that people gave to tracks, by video."""

    faces: tuple[LabelledFace, ...]
    dropped: Mapping[str, int]
    files: Mapping[str, Sequence[Mapping[str, Any]]] = field(repr=False)
    persons: Mapping[str, Collection[str]] = field(repr=False)

    def file_of(self, video_id: str) -> Place | None:
        """A file that still holds the video's bytes, or an object that has not changed."""
        named = self.files.get(video_id, ())
        return find_original(named, video_id) or find_object(named)


def read_labels(lake: Lake) -> LakeLabels:
    """Every face that has an expression by the majority of its raters; each rater's last judgement counts.

    Dropped are faces that most raters call no face, that nobody is sure of, whose raters are divided evenly, and whose
    place the lake has forgotten.
    """
    with read_errors(lake.location), connect(lake) as con:
        key = "video_id, faces_id, frame_index, face_index"
        counts = ", ".join(
            f"count(*) FILTER (verdict = 'expression' AND expression = '{e}') AS {e}" for e in EXPRESSIONS
        )
        judged = rows_of(
            con,
            f"SELECT {key}, {counts}, count(*) FILTER (verdict = 'not_a_face') AS not_a_face FROM labels"
            f" GROUP BY {key} ORDER BY {key}",
        ).to_pylist()
        videos = sorted({row["video_id"] for row in judged})
        files = _by_video(rows_of(con, FILES_SQL).to_pylist())
        named = rows_of(con, "SELECT DISTINCT video_id, name FROM people WHERE name IS NOT NULL").to_pylist()
    places = _places(lake, videos)
    dropped: Counter[str] = Counter()
    faces = []
    for row in judged:
        votes = {e: row[e] for e in EXPRESSIONS if row[e]}
        most = max(votes.values(), default=0)
        place = places.get((row["video_id"], row["faces_id"], row["frame_index"], row["face_index"]))
        if row["not_a_face"] > sum(votes.values()):
            dropped["not a face"] += 1
        elif not votes:
            dropped["undecided"] += 1
        elif sum(n == most for n in votes.values()) > 1:
            dropped["raters divided evenly"] += 1
        elif place is None:
            dropped["no such face in the lake any more"] += 1
        else:
            ids = {name: row[name] for name in ("video_id", "faces_id", "frame_index", "face_index")}
            faces.append(LabelledFace(**ids, votes=votes, **place))
    persons = {video_id: {row["name"] for row in rows} for video_id, rows in _by_video(named).items()}
    return LakeLabels(tuple(faces), dict(dropped), files, persons)


def _by_video(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["video_id"], []).append(row)
    return found


def _places(lake: Lake, videos: Sequence[str]) -> dict[tuple[str, str, int, int], dict[str, Any]]:
    """Where labelled faces lie, from any finished analysis with the same faces; boxes do not depend on the model."""
    if not videos:
        return {}
    columns = ", ".join(f"s.{name}" for name in (*_BOX, *_MARKS))
    with read_errors(lake.location), connect(lake, videos) as con:
        rows = rows_of(
            con,
            f"""
            WITH asked AS (SELECT DISTINCT video_id, faces_id, frame_index, face_index FROM raw.labels)
            SELECT a.*, s.track_id, s.pts_s, {columns} FROM asked a
            JOIN raw.finished f ON a.video_id = f.video_id AND a.faces_id = f.faces_id
            JOIN scores_all s ON s.video_id = f.video_id AND s.analysis_id = f.analysis_id
                 AND s.frame_index = a.frame_index AND s.face_index = a.face_index
            QUALIFY row_number() OVER (
                PARTITION BY a.video_id, a.faces_id, a.frame_index, a.face_index ORDER BY f.chosen DESC, f.analysis_id
            ) = 1
            """,
        ).to_pylist()
    return {
        (row["video_id"], row["faces_id"], row["frame_index"], row["face_index"]): {
            "track_id": row["track_id"],
            "pts_s": row["pts_s"],
            "box_px": tuple(row[name] for name in _BOX),
            "landmarks_px": tuple(row[name] for name in _MARKS),
        }
        for row in rows
    }


@dataclass(frozen=True)
class Judgement:
    """A judgement as a file states it, at ``where`` in the file. A face is meant by ``frame_index`` or ``time_s``, and
    where there are several by ``face_index`` or ``track_id``; ``faces_id`` None is that of the chosen analysis."""

    where: str
    video_id: str
    verdict: str
    expression: str | None
    rater: str
    frame_index: int | None = None
    time_s: float | None = None
    face_index: int | None = None
    track_id: int | None = None
    faces_id: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS or (self.verdict == "expression") != (self.expression in EXPRESSIONS):
            raise ValueError(f"the verdict {self.verdict!r} does not go with the expression {self.expression!r}")
        if not self.rater.strip():
            raise ValueError("a judgement needs to say who judged")
        if self.frame_index is None and self.time_s is None:
            raise ValueError("a judgement names a frame_index or a time_s")


@dataclass(frozen=True)
class Refusal:
    """A judgement that found no face, and why."""

    where: str
    reason: str


def add_labels(lake: Lake, judgements: Sequence[Judgement]) -> tuple[int, int, list[Refusal]]:
    """Write judgements on faces that the lake has; the same judgement twice is one.

    Returns:
        How many were written, how many were there already, and those that name no face, or more than one.

    Raises:
        LakeError: the lake cannot be read or written.
    """
    if not judgements:
        return 0, 0, []
    found = _find_faces(lake, judgements)
    rows: dict[str, dict[str, Any]] = {}
    refused = []
    for at, judgement in enumerate(judgements):
        faces = found.get(at, [])
        if len(faces) != 1:
            seen = ", ".join(f"{face['face_index']} (track {face['track_id']})" for face in faces)
            reason = f"several faces there: name face_index {seen}" if faces else "the lake has no face there"
            refused.append(Refusal(judgement.where, reason))
            continue
        row = {
            **faces[0],
            "verdict": judgement.verdict,
            "expression": judgement.expression,
            "rater": judgement.rater.strip(),
            "note": judgement.note,
        }
        named = "\n".join(str(row[name]) for name in sorted(row) if name not in ("time_s", "track_id"))
        rows[hashlib.sha256(named.encode()).hexdigest()[:32]] = row
    with read_errors(lake.location), connect(lake) as con:
        known = {row["label_id"] for row in rows_of(con, "SELECT DISTINCT label_id FROM raw.labels").to_pylist()}
    fresh = {label_id: row for label_id, row in rows.items() if label_id not in known}
    if fresh:
        now = datetime.now(UTC)
        table = pa.Table.from_pylist(
            [{"label_id": label_id, "created_utc": now, **row} for label_id, row in fresh.items()],
            schema=TABLES["labels"].schema,
        )
        lake.append("labels", table, transaction=hashlib.sha256("".join(sorted(fresh)).encode()).hexdigest())
    return len(fresh), len(rows) - len(fresh), refused


def _find_faces(lake: Lake, judgements: Sequence[Judgement]) -> dict[int, list[dict[str, Any]]]:
    """The faces that each judgement may mean, by its position."""
    kinds = {"at": pa.int64(), "video_id": pa.string(), "faces_id": pa.string(), "frame_index": pa.int64()}
    kinds |= {"time_s": pa.float64(), "face_index": pa.int16(), "track_id": pa.int32()}
    wanted = pa.Table.from_pylist(
        [{"at": at, **{name: getattr(j, name) for name in kinds if name != "at"}} for at, j in enumerate(judgements)],
        schema=pa.schema(list(kinds.items())),
    )
    with read_errors(lake.location), connect(lake, {j.video_id for j in judgements}) as con:
        con.register("wanted", wanted)
        rows = rows_of(
            con,
            """
            SELECT DISTINCT w.at, s.video_id, f.faces_id, s.frame_index, s.time_s, s.face_index, s.track_id
            FROM wanted w JOIN raw.finished f
                 ON w.video_id = f.video_id
                 AND CASE WHEN w.faces_id IS NULL THEN f.chosen ELSE f.faces_id = w.faces_id END
            JOIN scores_all s ON s.video_id = f.video_id AND s.analysis_id = f.analysis_id
            WHERE CASE WHEN w.frame_index IS NOT NULL THEN s.frame_index = w.frame_index
                       ELSE w.time_s + 1e-6 >= s.time_s AND w.time_s + 1e-6 < s.time_s + s.duration_s END
              AND (w.face_index IS NULL OR s.face_index = w.face_index)
              AND (w.track_id IS NULL OR w.face_index IS NOT NULL OR s.track_id = w.track_id)
            ORDER BY ALL
            """,
        ).to_pylist()
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row.pop("at"), []).append(row)
    return found


#: How unsure a model is of a face, highest first.
_UNSURE = {
    "entropy": "entropy",
    "margin": "1 - (confidence - list_reverse_sort([coalesce(p, 0) FOR p IN [{}]])[2])".format(
        ", ".join(f"p_{name}" for name in EXPRESSIONS)
    ),
}


def uncertain_faces(lake: Lake, n: int, order: str = "entropy") -> list[dict[str, Any]]:
    """Faces of good quality that nobody has judged, the least certain first and in turns from every video and track.

    Neighbouring frames show the same face: one per track and second is taken, the least certain one of each track
    before the second of any, and the first of each video before the second of any.

    Args:
        lake: where.
        n: faces, at most.
        order: ``entropy`` of the probabilities, or ``margin`` between the two highest.

    Raises:
        ValueError: an order that is none.
    """
    if order not in _UNSURE:
        raise ValueError(f"order is {order!r}; allowed: {', '.join(_UNSURE)}")
    with read_errors(lake.location), connect(lake) as con:
        rows: list[dict[str, Any]] = rows_of(
            con,
            f"""
            WITH seconds AS (
                SELECT s.path, s.file_name, s.video_id, f.faces_id, s.frame_index, s.time_s, s.face_index, s.track_id,
                       s.expression AS model_says, s.confidence, s.entropy, {_UNSURE[order]} AS unsure
                FROM scores s JOIN raw.finished f USING (video_id, analysis_id)
                ANTI JOIN labels l ON s.video_id = l.video_id AND f.faces_id = l.faces_id
                     AND s.frame_index = l.frame_index AND s.face_index = l.face_index
                WHERE s.quality_ok QUALIFY row_number() OVER (
                    PARTITION BY s.video_id, s.track_id, floor(s.time_s) ORDER BY unsure DESC, s.frame_index
                ) = 1
            ), in_track AS (
                SELECT *, row_number() OVER (
                    PARTITION BY video_id, track_id ORDER BY unsure DESC, frame_index
                ) AS turn FROM seconds
            ), in_video AS (
                SELECT *, row_number() OVER (PARTITION BY video_id ORDER BY turn, unsure DESC, frame_index) AS place
                FROM in_track
            )
            SELECT * EXCLUDE (turn, place, unsure) FROM in_video
            ORDER BY place, unsure DESC, video_id, frame_index, face_index LIMIT {int(n)}
            """,
        ).to_pylist()
    return rows
