"""Labels as a training run needs them: faces with the votes of their raters, where they lie, and whose video it is."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from storage.annotations.edits import VERDICTS
from storage.delta.object_store import StoragePath
from storage.delta.relations import quote, read_errors, rows_of
from storage.lake import Lake
from storage.originals import FILES_SQL, find_place
from storage.schema import EXPRESSIONS, LANDMARKS, TABLES
from storage.sql.corrections import LAST_LABELS_SQL
from storage.sql.views import connect
from storage.summary import MARGIN_SQL

__all__ = [
    "ORDERS",
    "Judgement",
    "LabelledFace",
    "LakeLabels",
    "Refusal",
    "add_labels",
    "least_certain_faces",
    "read_labels",
    "suggested_faces",
    "uncertain_seconds",
]

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

    def file_of(self, video_id: str) -> StoragePath | None:
        """A file that still holds the video's bytes, or an object that has not changed."""
        named = self.files.get(video_id, ())
        return find_place(named, video_id)


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
            WITH wanted AS (SELECT DISTINCT video_id, faces_id, frame_index, face_index FROM raw.labels)
            SELECT a.*, s.track_id, s.pts_s, {columns} FROM wanted a
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
    """Write judgements on faces that the lake has; what a rater's last judgement of a face says already is not written.

    Returns:
        How many were written, how many were there already, and those that do not count: they name no face or more
        than one, or a later one of the same face and rater says something else.

    Raises:
        LakeError: the lake cannot be read or written.
    """
    if not judgements:
        return 0, 0, []
    found = _find_faces(lake, judgements)
    rows: dict[tuple[Any, ...], tuple[str, dict[str, Any]]] = {}
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
        of_face = _face_and_rater(row)
        if of_face in rows and _said(rows[of_face][1]) != _said(row):
            refused.append(Refusal(rows[of_face][0], "a later row is of the same face and rater: that one counts"))
        rows[of_face] = judgement.where, row
    standing = _standing(lake, {row["video_id"] for _, row in rows.values()})
    now = datetime.now(UTC)
    fresh = []
    for of_face, (_, row) in rows.items():
        last = standing.get(of_face)
        if last is None or _said(last) != _said(row):
            # the last judgement is the latest one, also where another machine's clock is ahead
            created = now if last is None else max(now, last["created_utc"] + _TICK)
            fresh.append({"label_id": uuid.uuid4().hex, "created_utc": created, **row})
    if fresh:
        table = pa.Table.from_pylist(fresh, schema=TABLES["labels"].schema)
        # not named by its content: the lake would know that name still when the labels are forgotten
        lake.append("labels", table, transaction=uuid.uuid4().hex)
    return len(fresh), len(rows) - len(fresh), refused


_OF_FACE = ("video_id", "faces_id", "frame_index", "face_index", "rater")
#: The step of the lake's clock.
_TICK = timedelta(microseconds=1)


def _face_and_rater(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _OF_FACE)


def _said(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row says of its face: two rows that say the same are one judgement."""
    return row["verdict"], row["expression"], row["note"]


def _standing(lake: Lake, video_ids: Collection[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The last judgement, also a withdrawn one, of each rater on each face of some videos."""
    with read_errors(lake.location), connect(lake, video_ids) as con:
        return {_face_and_rater(row): row for row in rows_of(con, LAST_LABELS_SQL).to_pylist()}


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


#: How unsure a model is of the least certain face of good quality of a track and second, from its row in ``seconds``,
#: and of a face, from its row in ``scores``; highest first.
_UNSURE = {
    "entropy": ("max_entropy", "entropy"),
    "margin": ("1 - min_margin", f"1 - {MARGIN_SQL}"),
    "random": (
        "hash(s.video_id || '/' || s.track_id || '/' || second) / 18446744073709551615.0",
        "hash(s.video_id || '/' || s.track_id || '/' || frame_index)",
    ),
}
ORDERS = tuple(_UNSURE)
Rows = list[dict[str, Any]]
#: Answers SQL over the views of a lake, with values for its question marks.
Ask = Callable[[str, Sequence[Any]], Rows]


def uncertain_seconds(ask: Ask, n: int, order: str = "entropy", *, rater: str = "", in_turns: bool = False) -> Rows:
    """Where faces of good quality are that nobody has judged, the least certain first.

    Neighbouring frames show the same face: a second of a track counts once, as its least certain face does, and not
    at all where one of its faces was judged. The view ``seconds`` says all that, so no face is read.

    Args:
        ask: the lake.
        n: seconds, at most.
        order: ``entropy`` of the probabilities, ``margin`` between the two highest, or ``random`` (any second is as
            likely as another, and the same each time).
        rater: whose judgements count; empty: anybody's.
        in_turns: the least certain second of each track before the next one of any, and the first of each video before
            the second of any.

    Returns:
        ``file_name``, ``video_id``, ``faces_id``, ``track_id``, ``second`` and ``unsure``, which falls from row to row
        unless in turns.

    Raises:
        ValueError: an order that is none.
    """
    if order not in _UNSURE:
        raise ValueError(f"order is {order!r}; allowed: {', '.join(_UNSURE)}")
    in_track = "row_number() OVER (PARTITION BY video_id, track_id ORDER BY unsure DESC, second)" if in_turns else "1"
    in_video = "row_number() OVER (PARTITION BY video_id ORDER BY turn, unsure DESC, second)" if in_turns else "1"
    return ask(
        f"""
        WITH open AS (
            SELECT s.file_name, s.video_id, f.faces_id, s.track_id, s.second, {_UNSURE[order][0]} AS unsure
            FROM seconds s JOIN raw.finished f USING (video_id, analysis_id)
            ANTI JOIN (FROM labels {"WHERE rater = ?" if rater else ""}) l
                 ON s.video_id = l.video_id AND f.faces_id = l.faces_id AND s.track_id = l.track_id
                 AND s.second = floor(l.time_s)
            WHERE s.n_faces_ok > 0
        ), turned AS (SELECT *, {in_track} AS turn FROM open), placed AS (SELECT *, {in_video} AS place FROM turned)
        SELECT * EXCLUDE (turn, place) FROM placed
        ORDER BY place, unsure DESC, video_id, track_id, second LIMIT {int(n)}
        """,
        [rater] if rater else [],
    )


def least_certain_faces(ask: Ask, seconds: Sequence[Mapping[str, Any]], order: str = "entropy") -> Rows:
    """The least certain face of good quality of each of some rows of ``uncertain_seconds``, in their order.

    Returns:
        Columns of the view ``scores`` and ``faces_id``; one row for each second whose faces are still there.
    """
    if not seconds:
        return []
    wanted = ", ".join(
        f"({place}, {quote(row['video_id'])}, {quote(row['faces_id'])}, {int(row['track_id'])}, {int(row['second'])})"
        for place, row in enumerate(seconds)
    )
    videos = ", ".join({quote(row["video_id"]) for row in seconds})
    times = [int(row["second"]) for row in seconds]
    probs = ", ".join(f"p_{name}" for name in EXPRESSIONS)
    return ask(
        f"""
        WITH wanted(place, video_id, faces_id, track_id, second) AS (VALUES {wanted})
        SELECT s.file_name, s.path, s.video_id, a.faces_id, frame_index, time_s, face_index, s.track_id, model_id,
               expression, confidence, entropy, {probs}
        FROM scores s JOIN wanted a ON s.video_id = a.video_id AND s.track_id = a.track_id AND floor(time_s) = a.second
        WHERE quality_ok AND s.video_id IN ({videos}) AND time_s >= {min(times)} AND time_s < {max(times) + 1}
        QUALIFY row_number() OVER (PARTITION BY place ORDER BY {_UNSURE[order][1]} DESC, frame_index, face_index) = 1
        ORDER BY place
        """,
        [],
    )


def suggested_faces(lake: Lake, n: int, order: str = "entropy") -> Rows:
    """``least_certain_faces`` of seconds that nobody has judged, in turns from every video and track.

    Raises:
        ValueError: an order that is none.
        LakeError: the lake cannot be read.
    """
    with read_errors(lake.location), connect(lake) as con:

        def ask(sql: str, values: Sequence[Any]) -> Rows:
            return rows_of(con, sql, values).to_pylist()

        return least_certain_faces(ask, uncertain_seconds(ask, n, order, in_turns=True), order)
