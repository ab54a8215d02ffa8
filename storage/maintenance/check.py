"""Is everything in a lake that should be there? Every file readable, every count right, every finished video whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from storage.delta.object_store import StoragePath
from storage.delta.relations import read_errors, relation_sql, rows_of, shared_connection
from storage.delta.tables import committed, count_rows_in, lake_errors, lock, named_files, open_table
from storage.errors import LakeError
from storage.lake import Lake, segment_transaction
from storage.models import WEIGHTS, ModelStore
from storage.schema import TABLES

__all__ = ["BrokenFile", "LakeCheck", "VideoFault", "check_lake", "examine"]

#: Tables whose rows are derived from a video and can be made again.
DERIVED = ("observations", "tracks", "seconds", "spans", "videos")

Key = tuple[str, str]  # video_id, analysis_id


@dataclass(frozen=True)
class BrokenFile:
    """A data file that a table's log names and that cannot be used; videos between the two ids may be in it."""

    table: str
    path: StoragePath
    what: str
    analysis_id: str | None = None
    first_video_id: str = ""
    last_video_id: str = "~"

    def __str__(self) -> str:
        return f"{self.path} ({self.table}) {self.what}"

    def may_hold(self, key: Key) -> bool:
        video_id, analysis_id = key
        return self.analysis_id in (None, analysis_id) and self.first_video_id <= video_id <= self.last_video_id


@dataclass(frozen=True)
class VideoFault:
    """A video whose rows in one table are not what its row in ``videos``, or the log, says."""

    table: str
    video_id: str
    analysis_id: str
    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path or 'a video'} ({self.video_id}, analysis {self.analysis_id}): {self.what} in {self.table}"


@dataclass(frozen=True)
class LakeCheck:
    """What was looked at and what is wrong. ``notes`` are no faults: leftovers that the next run or compaction ends."""

    n_files: int = 0
    n_videos: int = 0
    n_rows: int = 0
    files: tuple[BrokenFile, ...] = ()
    videos: tuple[VideoFault, ...] = ()
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unfinished: frozenset[Key] = field(default=frozenset(), repr=False)
    finished: frozenset[Key] = field(default=frozenset(), repr=False)

    @property
    def is_sound(self) -> bool:
        return not (self.files or self.videos or self.others)


def check_lake(lake: Lake) -> LakeCheck:
    """Read every file of a lake to its end and compare its tables with each other.

    Changes nothing and may run beside writers. What it cannot see: bytes that rotted into other valid values, because
    Parquet files carry no checksum; where these change a count or a key they are found.

    Raises:
        LakeError: a table's log is missing or broken, so nothing is known of its rows.
    """
    with lock(lake.location):
        return examine(lake)


def examine(lake: Lake) -> LakeCheck:
    """``check_lake`` for a caller that holds the lake."""
    n_files, broken = 0, []
    for name in sorted(TABLES, key=lambda name: name != "videos"):  # as views do: rows may be newer than `videos`
        for found in _files(lake.location, name):
            n_files += 1
            broken += [found] if found.what else []
    facts = _read_facts(lake, {str(file.path) for file in broken})
    finished = frozenset((row["video_id"], row["analysis_id"]) for row in facts["videos"])
    held = frozenset((row["video_id"], row["analysis_id"]) for row in facts["observations"])
    notes = [*_orphans(lake.location)]
    if held - finished:
        notes.append(f"{len(held - finished)} videos are begun and not finished; the next analysis goes on with them")
    return LakeCheck(
        n_files=n_files,
        n_videos=len(finished),
        n_rows=sum(row["n_rows"] for row in facts["observations"]),
        files=tuple(broken),
        videos=tuple(_video_faults(lake, facts, finished)),
        others=tuple(_model_faults(lake)),
        notes=tuple(notes),
        unfinished=held - finished,
        finished=finished,
    )


def _files(location: StoragePath, name: str) -> Iterator[BrokenFile]:
    """Every data file of a table; ``what`` is empty where it is sound."""
    for action in named_files(location, name).to_pylist():
        path = location / TABLES[name].place / action["path"]
        with lake_errors(location, f"reading files of {name} of"):
            what = _fault_of(path, action["size_bytes"], action.get("num_records"))
        yield BrokenFile(
            name,
            path,
            what,
            action.get("partition.analysis_id"),
            action.get("min.video_id") or "",
            action.get("max.video_id") or "~",
        )


def _fault_of(path: StoragePath, size_bytes: int, n_rows: int | None) -> str:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != size_bytes:
        return f"has {path.stat().st_size} bytes, and the log says {size_bytes}"
    n_found = count_rows_in(path)
    if n_found is None:
        return "cannot be read to its end"
    if n_rows is not None and n_found != n_rows:
        return f"has {n_found} rows, and the log says {n_rows}"
    return ""


_FACTS = {
    "videos": "SELECT * FROM {source}",
    "observations": """
        SELECT video_id, analysis_id, count(*) AS n_rows, list(DISTINCT segment) AS segments,
               count(*) FILTER (WHERE face_index IS NULL OR face_index = 0) AS n_frames,
               count(*) FILTER (WHERE face_index = 0) AS n_frames_with_face,
               count(*) FILTER (WHERE frame_status = 'decode_error') AS n_frames_undecodable,
               count(face_index) AS n_faces, count(expression) AS n_scored, count(DISTINCT frame_index) AS n_distinct
        FROM {source} GROUP BY ALL
    """,
    "tracks": """
        SELECT video_id, analysis_id, count(DISTINCT track_id) AS n_tracks, CAST(sum(n_faces) AS BIGINT) AS n_faces
        FROM {source} GROUP BY ALL
    """,
    "seconds": "SELECT video_id, analysis_id, CAST(sum(n_faces) AS BIGINT) AS n_faces FROM {source} GROUP BY ALL",
    "spans": "SELECT video_id, analysis_id, CAST(sum(n_faces) AS BIGINT) AS n_faces FROM {source} GROUP BY ALL",
}


def _read_facts(lake: Lake, without: set[str]) -> dict[str, list[dict[str, Any]]]:
    facts = {}
    with read_errors(lake.location), shared_connection() as con:
        for name, sql in _FACTS.items():
            source = f"({relation_sql(lake.location, name, without=without)})"
            facts[name] = rows_of(con, sql.format(source=source)).to_pylist()
    return facts


def _video_faults(lake: Lake, facts: dict[str, list[dict[str, Any]]], finished: frozenset[Key]) -> Iterator[VideoFault]:
    in_log = _committed(lake, facts)
    by_key = {
        name: {(row["video_id"], row["analysis_id"]): row for row in facts[name]}
        for name in ("observations", "tracks", "seconds", "spans")
    }
    n_seen: dict[Key, int] = {}
    for video in facts["videos"]:
        key = video["video_id"], video["analysis_id"]
        n_seen[key] = n_seen.get(key, 0) + 1
        for table, what in _differences(video, by_key, in_log):
            yield VideoFault(table, *key, video["path"], what)
        if n_seen[key] == 2:
            yield VideoFault("videos", *key, video["path"], "it is there more than once")
    for key, rows in by_key["observations"].items():
        video_id, analysis_id = key
        for segment in sorted(rows["segments"]):
            if segment_transaction(analysis_id, video_id, segment) not in in_log["observations"]:
                yield VideoFault("observations", *key, "", f"segment {segment} has rows and was never committed")
        if rows["n_distinct"] != rows["n_frames"]:
            what = f"{rows['n_distinct']} frames have {rows['n_frames']} first rows"
            yield VideoFault("observations", *key, "", what)
    for name in ("tracks", "seconds", "spans"):
        for key in by_key[name].keys() - by_key["observations"].keys() - finished:
            yield VideoFault(name, *key, "", "it has rows, and no observations are left of it")


def _committed(lake: Lake, facts: dict[str, list[dict[str, Any]]]) -> dict[str, set[str]]:
    """Of the names that there should be, those that the tables' logs have, by table."""
    names = {table: {f"{row['analysis_id']}/{row['video_id']}" for row in facts["videos"]} for table in DERIVED}
    names["observations"] = {
        segment_transaction(row["analysis_id"], row["video_id"], segment)
        for row in (*facts["videos"], *facts["observations"])
        for segment in row.get("segments", range(row.get("n_segments", 0)))
    }
    return {table: committed(lake.location, table, wanted) for table, wanted in names.items()}


def _differences(
    video: dict[str, Any], by_key: dict[str, Any], in_log: dict[str, set[str]]
) -> Iterator[tuple[str, str]]:
    key = video["video_id"], video["analysis_id"]
    name = f"{key[1]}/{key[0]}"
    rows, tracks, seconds, spans = (
        by_key[table].get(key, {}) for table in ("observations", "tracks", "seconds", "spans")
    )
    missing = [
        segment
        for segment in range(video["n_segments"])
        if segment_transaction(key[1], key[0], segment) not in in_log["observations"]
    ]
    if missing:
        yield "observations", f"segments {', '.join(map(str, missing))} of {video['n_segments']} are not committed"
    for column in ("n_frames", "n_frames_with_face", "n_frames_undecodable", "n_faces"):
        if rows.get(column, 0) != video[column]:
            yield "observations", f"{column} is {rows.get(column, 0)} instead of {video[column]}"
            break
    for table, found, column in (
        ("tracks", tracks, "n_tracks"),
        ("tracks", tracks, "n_faces"),
        ("seconds", seconds, "n_faces"),
    ):
        if found.get(column, 0) != video[column]:
            yield table, f"{column} is {found.get(column, 0)} instead of {video[column]}"
    if rows and spans.get("n_faces", 0) != rows["n_scored"]:
        yield "spans", f"n_faces is {spans.get('n_faces', 0)} instead of {rows['n_scored']}"
    for table in ("tracks", "seconds", "spans", "videos"):
        if name not in in_log[table]:
            yield table, "it was never committed"


def _model_faults(lake: Lake) -> Iterator[str]:
    store = ModelStore(lake)
    try:
        published = store.published()
    except LakeError as error:  # the file is named already
        yield f"the models cannot be listed: {error}"
        return
    for model in published:
        try:
            weights = store.place_of(model.model_id) / WEIGHTS
            with weights.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except (LakeError, OSError) as error:
            yield f"model {model.model_id}: {error}"
            continue
        if not digest.startswith(model.model_id.rpartition("@")[2]):
            yield f"model {model.model_id}: {weights} has other bytes than were published; restore it from a copy"


def _orphans(location: StoragePath) -> Iterator[str]:
    for name in TABLES:
        table = open_table(location, name)
        with lake_errors(location, f"listing the files of {name} of"):
            old = set(table.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False))
            unused = set(table.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False, full=True))
        for path in sorted(unused - old):
            yield (
                f"{location / TABLES[name].place / path} belongs to no version of {name}: a run is writing it, or was "
                "killed; compaction removes it after a week"
            )
