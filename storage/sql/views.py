"""What people ask of a lake: views for SQL in an in-memory DuckDB, and a locked door for SQL that others wrote."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from storage.delta.relations import (
    memory_connection,
    quote,
    read_errors,
    relation_sql,
    relations_sql,
    shared_connection,
)
from storage.errors import LakeError
from storage.lake import Lake
from storage.models import PACKAGE_MODEL
from storage.schema import EXPRESSIONS, TABLES
from storage.sql.corrections import BASIC_VIEWS, CORRECTED, EDITS_SQL, LABELS_SQL, PEOPLE_SQL, WHO, corrections
from storage.sql.model_choice import find_model_id, mixture_note
from storage.sql.table_functions import FUNCTIONS, create_functions
from storage.stitch import SPAN_MAX_GAP_S, TIME_DIGITS

__all__ = [
    "EPISODE_MIN_S",
    "MAX_ROWS",
    "MEMORY_MB",
    "TIMEOUT_S",
    "VIEWS",
    "QueryStop",
    "View",
    "connect",
    "note_of",
    "run_sql",
]

#: Shorter spans are not episodes: apparent expressions last longer than half a second, except for micro-expressions
#: (Ekman 2003: 1/25 to 1/2 s), which this data is too coarse for.
EPISODE_MIN_S = 0.5


@dataclass(frozen=True)
class View:
    """One view: what a row is, its SELECT, and unit and meaning of the columns that no table has under that name.

    ``tables`` are looked up for the meaning of the others, in that order.
    """

    name: str
    meaning: str
    sql: str
    tables: tuple[str, ...]
    columns: dict[str, tuple[str, str]] = field(default_factory=dict)


_FILE_NAME = ("", "name of the file without its folder")
_PATH = ("", "path at which a run found the video; copies are in videos")
_STREAM = ("", "number of the video stream in the file, from 0, without cover pictures")
_TRACK = ("", "number of a face followed through the whole video")
_PERSON = ("", "track that stands for the person in this video: the one merged into, else the person's first")
_PERSON_ID = (
    "",
    "the person in every video: the name, else an id of `mfer people find`, else video_id/track_id; NULL: nobody "
    "named, merged or found the track",
)


def _each(pattern: str) -> str:
    return ", ".join(pattern.format(name) for name in EXPRESSIONS)


_FACE = ", ".join(
    f"o.{name}"
    for name in TABLES["observations"].schema.names
    if name.endswith("_px")
    or name in ("det_prob", "sharpness", "brightness", "yaw_deg", "pitch_deg", "roll_deg", "mouth_motion")
)

#: The last promotion that was not rolled back; before any, the package's own model.
_PRODUCTION = f"""
    SELECT coalesce(nullif(arg_max(coalesce(model_id, ''), sequence), ''), {quote(PACKAGE_MODEL)}) AS model_id
    FROM raw.models WHERE event IN ('promote', 'rollback')
"""
#: What a video_id names (see ``storage.identity.with_stream``), in SQL.
_CONTENT, _SUFFIX = "split_part(video_id, '-v', 1)", "coalesce(split_part(video_id, '-v', 2), '')"
#: Of each content that a run has seen: the paths at which the latest run found it, the last seen first. Files are
#: renamed, swapped and overwritten; a path of which the latest run read no bytes counts as it was.
_PLACES = f"""
    SELECT content, list(path ORDER BY lake_version DESC, run_id DESC, path) FILTER (content = held) AS paths
    FROM (
        SELECT path, {_CONTENT} AS content, lake_version, run_id,
               first_value({_CONTENT}) OVER (PARTITION BY path ORDER BY lake_version DESC, run_id DESC) AS held
        FROM ({{runs}}) WHERE video_id IS NOT NULL
    ) GROUP BY content
"""
#: Finished analyses: where the video is, which one is chosen for it (none where no path holds it any more), and how
#: segments' track numbers map to the video's where they differ.
_FINISHED = f"""
    WITH joined AS (
        SELECT video_id, analysis_id, map_from_entries(list((row(segment, track), track_id))) AS track_ids
        FROM raw.tracks WHERE track <> track_id GROUP BY ALL
    ), placed AS (
        SELECT v.* REPLACE (CASE WHEN list_contains(p.paths, v.path) THEN v.path ELSE coalesce(p.paths[1], v.path) END
                            AS path),
               p.content IS NULL OR len(p.paths) > 0 AS is_there
        FROM raw.videos v LEFT JOIN raw.places p ON p.content = {_CONTENT}
    )
    SELECT v.* EXCLUDE (is_there), parse_filename(v.path, false, 'forward_slash') AS file_name, joined.track_ids,
           v.model_id IS NOT DISTINCT FROM production.model_id AS in_production,
           {{wanted}} AND is_there AND row_number() OVER (
               PARTITION BY v.video_id
               ORDER BY {{wanted}} DESC, v.model_id IS NOT DISTINCT FROM production.model_id DESC, v.n_frames DESC,
                        v.lake_version DESC, v.analysis_id
           ) = 1 AS chosen
    FROM placed v CROSS JOIN raw.production production LEFT JOIN joined USING (video_id, analysis_id)
"""

_SCORES_ALL = f"""
    SELECT f.file_name, o.time_s, coalesce(f.track_ids[row(o.segment, o.track)], o.track) AS track_id,
           o.expression, o.confidence, {_each("o.p_{}")}, o.entropy, o.quality_ok, f.path,
           f.stream, o.video_id, o.frame_index, o.face_index, o.n_faces, o.pts_s, o.duration_s, {_FACE},
           o.segment, o.model_id, o.analysis_id, f.chosen
    FROM raw.observations o JOIN raw.finished f USING (video_id, analysis_id)
    WHERE o.face_index IS NOT NULL
"""
_SCORES = "SELECT s.*, {who} FROM {scores} s {people}"
_FRAMES = """
    SELECT f.file_name, o.time_s, o.frame_status, o.n_faces, o.frame_index, o.pts_s, o.duration_s, f.path,
           f.stream, o.video_id, o.segment, o.analysis_id
    FROM raw.observations o JOIN raw.finished f USING (video_id, analysis_id)
    WHERE f.chosen AND (o.face_index IS NULL OR o.face_index = 0)
"""
_TRACKS = f"""
    SELECT f.file_name, t.track_id, min(t.start_s) AS start_s, max(t.end_s) AS end_s,
           CAST(sum(t.n_faces) AS BIGINT) AS n_faces,
           {_each("sum(t.mean_p_{0} * t.n_faces) / sum(t.n_faces) AS mean_p_{0}")},
           sum(t.mean_box_width_px * t.n_faces) / sum(t.n_faces) AS mean_box_width_px,
           sum(t.mean_box_height_px * t.n_faces) / sum(t.n_faces) AS mean_box_height_px,
           min(t.first_frame) AS first_frame, max(t.last_frame) AS last_frame,
           f.path, f.stream, t.video_id, t.faces_id, t.analysis_id
    FROM {{tracks}} t JOIN raw.finished f USING (video_id, analysis_id)
    WHERE f.chosen GROUP BY ALL
"""
_SECONDS = f"""
    SELECT f.file_name, s.track_id, s.second, s.screen_time_s, s.n_faces,
           {_each("s.sum_p_{0}_s / nullif(s.screen_time_s, 0) AS mean_p_{0}")},
           {_each("s.max_p_{0}")}, {_each("s.sum_p_{0}_s")}, s.n_faces_ok, s.max_entropy, s.min_margin,
           s.mean_brightness, s.speaking, f.path, f.stream, s.video_id, s.analysis_id
    FROM {{seconds}} s JOIN raw.finished f USING (video_id, analysis_id) WHERE f.chosen
"""
_SPANS = """
    SELECT f.file_name, s.track_id, s.start_s, s.end_s, s.expression, s.screen_time_s,
           s.sum_confidence_s / nullif(s.screen_time_s, 0) AS mean_confidence, s.n_faces, f.path, f.stream,
           s.video_id, s.analysis_id
    FROM {spans} s JOIN raw.finished f USING (video_id, analysis_id) WHERE f.chosen
"""
_EPISODES = f"SELECT * FROM spans WHERE round(end_s - start_s, {TIME_DIGITS}) >= {EPISODE_MIN_S}"
_COUNTS = "n_frames, n_frames_with_face, n_frames_undecodable, n_faces"
_VIDEOS = f"""
    WITH last AS (
        SELECT * FROM raw.runs
        QUALIFY row_number() OVER (PARTITION BY path, {_SUFFIX} ORDER BY lake_version DESC, run_id DESC) = 1
            AND {_CONTENT} IS NOT DISTINCT FROM first_value({_CONTENT}) OVER (
                PARTITION BY path ORDER BY lake_version DESC, run_id DESC
            ) AND (
                code IS DISTINCT FROM 'no_such_stream'
                OR row_number() OVER (PARTITION BY path ORDER BY lake_version DESC, run_id DESC) = 1
            )
    ), paths AS (
        SELECT path, size_bytes, video_id, status, code, stage, message, run_id, {_COUNTS} FROM last
        UNION ALL
        SELECT path, size_bytes, video_id, status, code, NULL, message, NULL, {_COUNTS} FROM (
            SELECT * FROM raw.videos WHERE path NOT IN (SELECT path FROM last)
            QUALIFY row_number() OVER (PARTITION BY path, {_SUFFIX} ORDER BY lake_version DESC, analysis_id) = 1
        )
    )
    SELECT parse_filename(p.path, false, 'forward_slash') AS file_name,
           CASE WHEN f.video_id IS NULL OR p.status = 'failed' THEN p.status ELSE f.status END AS status,
           CASE WHEN p.status = 'failed' OR f.status = 'partial' OR f.video_id IS NULL
                THEN coalesce(p.code, f.code) END AS code,
           p.stage,
           CASE WHEN p.status = 'skipped' AND p.code IS NULL AND f.video_id IS NOT NULL THEN f.message
                ELSE p.message END AS message,
           coalesce(f.n_frames, p.n_frames) AS n_frames,
           coalesce(f.n_frames_with_face, p.n_frames_with_face) AS n_frames_with_face,
           coalesce(f.n_frames_undecodable, p.n_frames_undecodable) AS n_frames_undecodable,
           coalesce(f.n_faces, p.n_faces) AS n_faces, f.n_tracks,
           f.duration_s, f.width_px, f.height_px, f.codec, f.container, f.decoder, f.start_s,
           f.stream, f.n_streams, p.path, p.size_bytes, p.video_id, f.analysis_id, f.model_id, f.faces_id,
           p.status AS last_run_status, p.run_id
    FROM paths p LEFT JOIN raw.finished f ON p.video_id = f.video_id AND f.chosen
"""
_ANALYSES = """
    SELECT analysis_id, model_id, in_production, count(*) AS n_videos,
           count(*) FILTER (WHERE chosen) AS n_videos_chosen, CAST(sum(n_frames) AS BIGINT) AS n_frames,
           CAST(sum(n_faces) AS BIGINT) AS n_faces, faces_id, arg_min(settings, video_id) AS settings
    FROM raw.finished GROUP BY analysis_id, model_id, in_production, faces_id
"""
_MODELS = """
    SELECT m.model_id, m.name, m.model_id IS NOT DISTINCT FROM production.model_id AS in_production,
           m.created_utc AS published_utc, m.card
    FROM raw.models m CROSS JOIN raw.production production WHERE m.event = 'publish'
"""

_IN_PRODUCTION = ("", "whether it is the model in production")
_VIDEO_FILE = {"file_name": _FILE_NAME, "path": _PATH, "stream": _STREAM}
_VIEWS = (
    View(
        "scores",
        "One row per face per sampled frame, of the analysis that the views show of each video; without excluded "
        "spans, and with the new numbers of split tracks.",
        _SCORES,
        ("observations",),
        {**_VIDEO_FILE, "track_id": _TRACK, "person": _PERSON, "person_id": _PERSON_ID},
    ),
    View(
        "scores_all",
        "One row per face per sampled frame, of every finished analysis.",
        _SCORES_ALL,
        ("observations",),
        {**_VIDEO_FILE, "track_id": _TRACK, "chosen": ("", "whether scores shows this analysis of the video")},
    ),
    View("frames", "One row per sampled frame, with or without a face.", _FRAMES, ("observations",), _VIDEO_FILE),
    View("tracks", "One row per face followed through a video.", _TRACKS, ("tracks",), _VIDEO_FILE),
    View(
        "seconds",
        "One row per track and second in which it was seen, without excluded spans.",
        _SECONDS,
        ("seconds",),
        _VIDEO_FILE | {f"mean_p_{e}": ("0..1", f"mean probability of {e}, weighted by time") for e in EXPRESSIONS},
    ),
    View(
        "spans",
        "One row per unbroken span, however short, in which a track keeps one leading expression; a gap of "
        f"more than {SPAN_MAX_GAP_S} s ends it.",
        _SPANS,
        ("spans",),
        {**_VIDEO_FILE, "mean_confidence": ("0..1", "mean probability of that class, weighted by time")},
    ),
    View(
        "episodes",
        f"The rows of spans that last at least {EPISODE_MIN_S} s.",
        _EPISODES,
        ("spans",),
        {**_VIDEO_FILE, "mean_confidence": ("0..1", "mean probability of that class, weighted by time")},
    ),
    View(
        "videos",
        "One row per path and video stream that a run has seen, including copies and failures, with the latest "
        "outcome; counts are those of the analysis that the views show.",
        _VIDEOS,
        ("videos", "runs"),
        {
            "file_name": _FILE_NAME,
            "status": ("", "ok, partial (frames could not be read), failed or skipped"),
            "code": ("", "what went wrong (docs/errors.md)"),
            "message": ("", "what went wrong, as text; of a finished video what its analysis said"),
            "video_id": ("", "content of the file; NULL where no bytes could be read"),
            "last_run_status": ("", "what the latest run did with the path; skipped: it was finished before"),
        },
    ),
    View(
        "analyses",
        "One row per analysis: the same settings and the same model.",
        _ANALYSES,
        ("videos",),
        {
            "in_production": _IN_PRODUCTION,
            "n_videos": ("", "videos that are finished in it"),
            "n_videos_chosen": ("", "videos for which scores shows it"),
        },
    ),
    View(
        "labels",
        "One row per face and rater: the rater's last label, unless it was withdrawn.",
        LABELS_SQL,
        ("labels",),
        {"file_name": _FILE_NAME},
    ),
    View("edits", "One row per edit that was not undone.", EDITS_SQL, ("edits",), {"file_name": _FILE_NAME}),
    View(
        "people",
        "One row per track, of the analysis that the views show, that somebody has named or merged, or that `mfer "
        "people find` has found.",
        PEOPLE_SQL,
        ("edits",),
        {
            "file_name": _FILE_NAME,
            "person": _PERSON,
            "name": ("", "name given to the track, else the last one given to another track of that person"),
            "person_id": _PERSON_ID,
            "confidence": ("0..1", "how sure `mfer people find` is of the track; NULL where people said who it is"),
        },
    ),
    View(
        "models",
        "One row per published model.",
        _MODELS,
        ("models",),
        {
            "model_id": ("", "name@12 hex of the weights' sha256"),
            "card": ("JSON", "the model card"),
            "in_production": _IN_PRODUCTION,
            "published_utc": ("UTC", "when it was published"),
        },
    ),
    View("drift", TABLES["drift"].meaning, "SELECT * FROM raw.drift", ("drift",)),
    View("runs", TABLES["runs"].meaning, "SELECT * EXCLUDE (lake_version) FROM raw.runs", ("runs",)),
)
#: Where ``run_sql`` leaves its note.
_NOTE = b"mfer.note"
#: What a query names whose answer depends on the model.
_OF_MODELS = re.compile(
    rf"\b({'|'.join(['scores', 'tracks', 'seconds', 'spans', 'episodes', *FUNCTIONS])})\b", re.IGNORECASE
)
#: The public views by name; the Delta tables themselves are in the schema ``raw``.
VIEWS = {view.name: view for view in _VIEWS}


def connect(
    lake: Lake,
    video_ids: Iterable[str] | None = None,
    *,
    model: str | None = None,
    as_found: bool = False,
    only: Collection[str] | None = None,
) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with every view of the lake as it is now; later commits need a new connection.

    With ``video_ids``, files that hold none of these videos are not opened, which is quick in a large lake; rows of
    others may still show: filter them. The chosen analysis of a video is the production model's where finished (until
    one is promoted that is the package's own), then the one with the most sampled frames, then the latest by commit.
    With ``model`` (see ``find_model_id``) only that model's analyses are chosen, and the views leave out videos that it
    has not scored. ``as_found`` leaves out what people said: names, merges, splits, events and exclusions. With
    ``only``, there are these views and no table functions, which take most of the time to make.

    Raises:
        LakeError: ``unknown_model``; a table cannot be read, or a file is missing or damaged, with the file's name.
    """
    of_videos = None if video_ids is None else sorted(video_ids)
    con = memory_connection()
    con.execute("SET TimeZone = 'UTC'")
    with read_errors(lake.location):
        con.execute("CREATE SCHEMA raw")
        # `videos` first: its snapshot must not be younger than those of the rows that it makes visible
        with_people = None if of_videos is None else _with_same_people(con, lake, of_videos)
        tables = relations_sql(lake.location, ["videos"], video_ids=with_people)
        of_people = ["tracks"] if of_videos else []
        others = [name for name in TABLES if name not in ("videos", "edits", "embeddings", *of_people)]
        for names, wanted_videos in ((["edits"], None), (of_people, with_people), (others, of_videos)):
            tables |= relations_sql(lake.location, names, video_ids=wanted_videos) if names else {}
        for name, files in tables.items():
            hidden = as_found and name == "edits"
            con.execute(f"CREATE VIEW raw.{name} AS {f'FROM ({files}) WHERE false' if hidden else files}")
        con.execute(f"CREATE VIEW raw.production AS {_PRODUCTION}")
        # of all videos: another one may be at a path by now
        runs = tables["runs"] if of_videos is None else relations_sql(lake.location, ["runs"])["runs"]
        con.execute(f"CREATE VIEW raw.places AS {_PLACES.format(runs=runs)}")
        wanted = "true" if model is None else f"v.model_id = {quote(find_model_id(con, lake, model))}"
        con.execute(f"CREATE VIEW raw.finished AS {_FINISHED.format(wanted=wanted)}")
        con.execute(f"CREATE VIEW scores_all AS {_SCORES_ALL}")
        inner = dict(BASIC_VIEWS)
        con.execute(f"CREATE VIEW raw.standing_edits AS {inner.pop('standing_edits')}")
        query = "SELECT DISTINCT video_id FROM raw.standing_edits WHERE kind IN ('exclude', 'split')"
        corrected = [video_id for (video_id,) in con.execute(query).fetchall()]
        for name, sql in (inner | corrections(corrected) if corrected else inner).items():
            con.execute(f"CREATE VIEW raw.{name} AS {sql}")
        source = {name: forms[bool(corrected)] for name, forms in CORRECTED.items()}
        query = "SELECT count(*) FROM raw.standing_edits WHERE kind IN ('name', 'merge', 'person')"
        source["who"], source["people"] = WHO[con.execute(query).fetchall()[0][0] > 0]
        con.execute(f"CREATE VIEW people AS {PEOPLE_SQL}")
        for name, view in VIEWS.items():
            if name not in ("scores_all", "people") and (only is None or name in only):
                con.execute(f"CREATE VIEW {name} AS {view.sql.format(**source)}")
        if only is None:
            create_functions(con)
    return con


def _with_same_people(con: duckdb.DuckDBPyConnection, lake: Lake, video_ids: list[str]) -> list[str]:
    """These videos and those in which somebody of them is seen: a name that was given there holds here too."""
    listed = ", ".join(f"({quote(video_id)})" for video_id in video_ids)
    if not listed:
        return []
    groups = f"SELECT DISTINCT video_id, value FROM ({relation_sql(lake.location, 'edits')}) WHERE kind = 'person'"
    found = con.execute(
        f"""
        WITH RECURSIVE groups AS MATERIALIZED ({groups}), near(video_id) AS (
            VALUES {listed}
            UNION SELECT o.video_id
            FROM near n JOIN groups g ON n.video_id = g.video_id JOIN groups o ON g.value = o.value
        )
        SELECT video_id FROM near ORDER BY 1
        """
    ).fetchall()
    return [video_id for (video_id,) in found]


#: Limits for SQL that others wrote. Five million rows of `scores` are about 2 GB in memory.
MAX_ROWS = 5_000_000
TIMEOUT_S = 300.0
MEMORY_MB = 4096


class QueryStop:
    """Stops a query that runs in another thread, or will run, at once."""

    def __init__(self) -> None:
        self.is_set = False
        self._interrupt: Callable[[], None] = lambda: None

    def set(self) -> None:
        self.is_set = True
        self._interrupt()

    def watch(self, con: duckdb.DuckDBPyConnection) -> None:
        """Let ``set`` interrupt what this connection does from now on."""
        self._interrupt = con.interrupt


def run_sql(
    lake: Lake,
    query: str,
    *,
    model: str | None = None,
    tables: Mapping[str, pa.Table] | None = None,
    max_rows: int | None = MAX_ROWS,
    timeout_s: float | None = TIMEOUT_S,
    memory_mb: int = MEMORY_MB,
    first_rows: bool = False,
    stop: QueryStop | None = None,
) -> pa.Table:
    """Answer one query of a user, who can read this lake's views and nothing else.

    A single function call over a huge value cannot be interrupted: for queries by people who are not trusted there is
    ``storage.sql.sandbox.run_sql_sandboxed``, which kills.

    Args:
        lake: the lake to ask.
        query: one SELECT, WITH, FROM, PIVOT, UNPIVOT, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN.
        model: whose scores the views show; None: see ``connect``.
        tables: tables of the user beside the views, by name.
        max_rows: rows of the answer beyond which there is none: half an answer would look like a whole one. None: all.
        timeout_s: seconds after which the query is stopped; None: never.
        memory_mb: what the query may take, beside the answer itself.
        first_rows: answer with the first ``max_rows`` rows where there are more, in place of refusing.
        stop: lets another thread stop the query.

    Returns:
        The answer. ``note_of`` says whether its rows may come from more than one model.

    Raises:
        LakeError: ``wrong_sql`` with what is wrong and which views there are, ``sql_stopped`` at a limit,
            ``damaged`` where the lake's files are missing or broken.
    """
    _check_statement(query)
    with connect(lake, model=model) as con:
        for name, table in (tables or {}).items():
            _add_table(con, name, table)
        con.execute(f"SET memory_limit = '{memory_mb}MB'")
        con.execute(f"SET allowed_directories = [{quote(str(lake.location))}]")
        con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
        timer = threading.Timer(timeout_s, con.interrupt) if timeout_s is not None else None
        if timer:
            timer.start()
        if stop:
            stop.watch(con)
        try:
            if stop and stop.is_set:
                raise duckdb.InterruptException("before it began")
            with read_errors(lake.location):
                answer = _answer(con, query, max_rows, first_rows)
                note = mixture_note(con) if _OF_MODELS.search(query) else ""
                return answer.replace_schema_metadata({**(answer.schema.metadata or {}), _NOTE: note})
        except duckdb.InterruptException as error:
            if stop and stop.is_set:
                raise LakeError("the query was cancelled", "sql_stopped") from error
            message = f"the query took longer than {timeout_s:g} s and was stopped; ask for less, or allow more time"
            raise LakeError(message, "sql_stopped") from error
        except (duckdb.OutOfMemoryException, MemoryError) as error:
            message = f"the query needs more than {memory_mb} MB and was stopped; ask for less, or allow more memory"
            raise LakeError(message, "sql_stopped") from error
        except duckdb.Error as error:
            raise _wrong(str(error)) from error
        finally:
            if timer:
                timer.cancel()


def note_of(answer: pa.Table) -> str:
    """What whoever reads an answer of ``run_sql`` should know: that it may mix models. Empty where there is nothing."""
    return (answer.schema.metadata or {}).get(_NOTE, b"").decode()


#: DuckDB's types without a counterpart in Arrow.
_NO_ARROW = re.compile(r"\b(TIME WITH TIME ZONE|BIT|BIGNUM)\b")


def _answer(con: duckdb.DuckDBPyConnection, query: str, max_rows: int | None, first_rows: bool) -> pa.Table:
    relation = _as_arrow_can(con.sql(query))
    if max_rows is None:
        return relation.to_arrow_table()
    reader: pa.RecordBatchReader = relation.to_arrow_reader()
    batches, n_rows = [], 0
    for batch in reader:
        batches.append(batch)
        n_rows += len(batch)
        if n_rows <= max_rows:
            continue
        if first_rows:
            return pa.Table.from_batches(batches, schema=reader.schema).slice(0, max_rows)
        message = f"the answer has more than {max_rows} rows and was stopped; add a LIMIT, or allow more rows"
        raise LakeError(message, "sql_stopped")
    return pa.Table.from_batches(batches, schema=reader.schema)


def _as_arrow_can(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The same with text for what DuckDB hands over as a time without its zone, or as its own bytes."""
    without = [_NO_ARROW.search(str(kind)) is not None for kind in relation.types]
    if not any(without):
        return relation
    names = [name.replace('"', '""') for name in relation.columns]
    values = [f"CAST(#{k} AS VARCHAR)" if text else f"#{k}" for k, text in enumerate(without, 1)]
    return relation.project(", ".join(f'{value} AS "{name}"' for value, name in zip(values, names, strict=True)))


def _add_table(con: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    if not re.fullmatch(r"[A-Za-z_]\w*", name) or name.lower() in {*VIEWS, *FUNCTIONS, *TABLES, "raw"}:
        taken = "is taken by the lake" if name.isidentifier() else "is not one word of letters, digits and _"
        raise LakeError(f"the name {name!r} of a table {taken}; choose another", "wrong_sql")
    con.register(name, table)


_EXPLAIN = re.compile(r"^\s*EXPLAIN(\s+ANALYZE)?(\s*\([^()]*\))?\s", re.IGNORECASE)
#: A PIVOT without IN is several statements to DuckDB, which first looks which values there are; so is COPY (PIVOT ...).
_READS = re.compile(r"^\s*\(*\s*(SELECT|WITH|FROM|PIVOT|PIVOT_WIDER|SUMMARIZE|DESCRIBE|VALUES|TABLE)\b", re.IGNORECASE)


def _check_statement(query: str) -> None:
    """Refuse all but one statement that only reads: an EXPLAIN is judged by what it explains (ANALYZE runs it)."""
    con = shared_connection()
    try:
        statements = con.extract_statements(query)
        if len(statements) == 1:
            statements = con.extract_statements(_EXPLAIN.sub("", statements[0].query, count=1))
    except duckdb.Error as error:
        raise _wrong(str(error)) from error
    if len(statements) != 1 or not _only_reads(statements[0]):
        got = ", ".join(str(statement.type).rpartition(".")[2] for statement in statements) or "nothing"
        raise _wrong(f"one SELECT, WITH, PIVOT, DESCRIBE, SHOW or EXPLAIN is allowed, got {got}")


def _only_reads(statement: duckdb.Statement) -> bool:
    is_several = statement.type == duckdb.StatementType.MULTI
    return statement.type == duckdb.StatementType.SELECT or (is_several and _READS.match(statement.query) is not None)


def _wrong(reason: str) -> LakeError:
    return LakeError(f"{reason.strip()}\nViews: {', '.join(VIEWS)} (DESCRIBE scores lists columns)", "wrong_sql")
