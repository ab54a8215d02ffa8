"""The lake: open or create it, commit segments and videos exactly once, and look up what is known."""

from __future__ import annotations

import errno
import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from storage.delta import tables
from storage.delta.object_store import ObjectPath, StoragePath, place_of, replace_bytes
from storage.delta.relations import Connection, quote, read_errors, relation_sql, rows_of, shared_connection
from storage.delta.tables import MARKER
from storage.errors import LakeError
from storage.identity import canonical_json, content_of_video, path_text
from storage.records import FinishedVideo, RunManifest, VideoCounts, VideoOutcome
from storage.schema import FACE_COLUMNS, OBSERVATIONS, SCHEMA_VERSION, TABLES, conform
from storage.stitch import SeamLimits
from storage.summary import count_rows, sum_seconds, sum_spans, sum_track_pieces

__all__ = ["Lake", "Segment"]

_P = TypeVar("_P", bound=str | StoragePath)
#: video_id, analysis_id
Key = tuple[str, str]
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
#: deltalake 1.6 loses or panics on these in a location; the others work.
_UNSAFE = set("%*?[]^|\\") | {chr(code) for code in range(32)}
#: In the prefix of an object store more characters get lost: it encodes them twice in some requests and once in others.
_NOT_SAFE_IN_A_STORE = re.compile(r"[^A-Za-z0-9._:/-]")


@dataclass(frozen=True)
class Segment:
    """The observations of one segment, ready to be committed."""

    analysis_id: str
    video_id: str
    segment: int
    observations: pa.Table

    @property
    def transaction(self) -> str:
        return segment_transaction(self.analysis_id, self.video_id, self.segment)


def segment_transaction(analysis_id: str, video_id: str, segment: int) -> str:
    """The name under which a segment is committed at most once."""
    return f"{analysis_id}/{video_id}/{segment}"


def _key(video: FinishedVideo) -> Key:
    return video.video_id, video.analysis_id


def _finish_transaction(video: FinishedVideo) -> str:
    """The name under which a video is finished at most once, in each table that is written then."""
    return f"{video.analysis_id}/{video.video_id}"


def _check_observations(part: Segment) -> None:
    rows = part.observations
    for name, value in (("analysis_id", part.analysis_id), ("video_id", part.video_id), ("segment", part.segment)):
        if name in rows.column_names and pc.any(pc.not_equal(rows[name], value)).as_py():
            raise ValueError(f"observations of {part.transaction} with another {name}")
    for name in ("frame_index", "time_s", "duration_s", "frame_status"):
        if rows[name].null_count:
            raise ValueError(f"observations with NULL in {name}")
    no_face = pc.is_null(rows["face_index"])
    if not pc.all(pc.equal(no_face, pc.is_null(rows["track"])), min_count=0).as_py():
        raise ValueError("a row has a track if and only if it has a face_index")
    if not pc.all(pc.equal(no_face, pc.not_equal(rows["frame_status"], "ok")), min_count=0).as_py():
        raise ValueError("frame_status is ok if and only if the row has a face_index")
    heads = rows["frame_index"].filter(pc.or_(no_face, pc.fill_null(pc.equal(rows["face_index"], 0), False)))
    if not len(heads) == pc.count_distinct(heads).as_py() == pc.count_distinct(rows["frame_index"]).as_py():
        raise ValueError("every frame has exactly one row with face_index 0 or NULL")


def _schema_version(location: StoragePath) -> int:
    """The version that a lake's marker states. Raises LakeError where there is no marker or it cannot be read."""
    marker = location / MARKER
    if not marker.is_file():
        raise LakeError(
            f"{location} is not a lake (it has no {MARKER}); name a lake, or analyse videos to make one", "not_a_lake"
        )
    try:
        return int(json.loads(marker.read_text(encoding="utf-8"))["schema_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise LakeError(f"{marker} is damaged: {error}; restore it from a copy", "damaged") from error


def _make_folder(location: Path) -> None:
    """Make the folder of a new lake with its parents. A place where there can be none is no damaged lake."""
    for place in (location, *location.parents):
        if place.exists() and not place.is_dir():
            message = f"{place} is a file, so no lake can be made at {location}; name another folder"
            raise LakeError(message, "not_a_lake" if place == location else "bad_location")
    try:
        location.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTDIR):
            raise  # such as no permission: see lake_errors
        message = f"no lake can be made at {location} ({error.strerror}); name a folder on a disk that can be written"
        raise LakeError(message, "bad_location") from error


def _require_usable(location: str | StoragePath) -> None:
    """Refuse a location that is of no store or home, or that Delta Lake or DuckDB would read as another one."""
    place = place_of(location)
    if isinstance(place, ObjectPath):
        unsafe = set(_NOT_SAFE_IN_A_STORE.findall(str(place)))
    elif isinstance(location, str) and (scheme := _SCHEME.match(location)):
        raise LakeError(
            f"a lake cannot be at {scheme[0]}: it is in a folder, or in s3://, gs:// or az://. A store of one's own,"
            " such as MinIO, is s3://BUCKET/PREFIX with AWS_ENDPOINT_URL in the environment",
            "bad_location",
        )
    elif str(location).startswith("~") and str(place).endswith(f"/{Path(str(location))}"):
        home = str(location).partition("/")[0]
        raise LakeError(
            f"nobody here has the home folder {home}; name a user, or write ./{location} for a folder of that name",
            "bad_location",
        )
    else:
        unsafe = set(str(place)) & _UNSAFE
    if unsafe:
        listed = " ".join(map(repr, sorted(unsafe)))
        raise LakeError(f"a lake cannot be in {str(place)!r}: choose a path without {listed}", "bad_location")


class Lake:
    """A lake in a folder or below a prefix of an object store.

    Holds only the location: cheap to make, safe to share, pickle and use in many processes.
    """

    def __init__(self, location: StoragePath) -> None:
        self.location = location

    def __repr__(self) -> str:
        return f"Lake({str(self.location)!r})"

    # -- open and create ------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, location: str | StoragePath, create: bool = False) -> Lake:
        """Open a lake; with ``create``, make one where there is none. Two processes may create at once.

        Raises LakeError for a folder that is no lake, another schema version, a location that Delta Lake cannot
        handle, a full disk or a place that cannot be written.
        """
        _require_usable(location)
        lake = cls(place_of(location))
        with tables.lake_errors(lake.location, "opening"):
            if create and not (lake.location / MARKER).exists():
                lake._create()
            lake._check_version()
        return lake

    def _check_version(self) -> None:
        version = _schema_version(self.location)
        if version != SCHEMA_VERSION:
            older = "analyse the videos again into a new lake, or use the program that wrote this one"
            remedy = older if version < SCHEMA_VERSION else "use a newer program, or analyse into a new lake"
            raise LakeError(
                f"the lake {self.location} has schema version {version}, this program reads {SCHEMA_VERSION}; {remedy}",
                "schema_version",
            )

    def _create(self) -> None:
        if isinstance(self.location, ObjectPath):
            self._require_conditional_puts(self.location)
        else:
            _make_folder(self.location)
        ours = {table.place.split("/")[0] for table in TABLES.values()} | {MARKER}
        names = {place.name for place in self.location.iterdir()} - ours
        foreign = [name for name in names if not name.startswith((".new-", ".probe-"))]
        if foreign:
            message = f"{self.location} is not empty ({sorted(foreign)[0]}) and not a lake; name another folder"
            raise LakeError(message, "not_a_lake")
        for table in TABLES.values():
            tables.create_table(self.location, table)
        marker = json.dumps({"schema_version": SCHEMA_VERSION}) + "\n"
        replace_bytes(self.location / MARKER, marker.encode())  # last: what has the marker has all tables

    @staticmethod
    def _require_conditional_puts(location: ObjectPath) -> None:
        """Of two writers one must lose; a store that lets both win keeps no lake."""
        probe = location / f".probe-{uuid.uuid4().hex}"
        probe.create(b"1")
        refused = not probe.create(b"2")
        probe.unlink()
        if not refused:
            message = f"the store of {location} ignores If-None-Match, on which commits stand; use one that honours it"
            raise LakeError(message, "bad_location")

    # -- commit ---------------------------------------------------------------------------------------------------

    def commit_segments(self, segments: Sequence[Segment]) -> set[tuple[str, str, int]]:
        """Commit the segments of any number of videos in one Delta commit, each exactly once.

        ``observations`` has columns of the table of that name; those of ``Segment`` are filled in, and others that
        are left out become NULL. A table over a memory-mapped Arrow file is written without being read into memory.

        Returns:
            (analysis_id, video_id, segment) of those that this call committed.

        Raises:
            ValueError: rows that break a rule of the table, such as a frame without exactly one first row.
            LakeError: the disk is full, the lake cannot be written or is damaged.
        """
        parts = {}
        for part in segments:
            _check_observations(part)
            parts[part.transaction] = _fill_in(part)
        done = tables.append_once(self.location, "observations", parts)
        return {(s.analysis_id, s.video_id, s.segment) for s in segments if s.transaction in done}

    def commit_short_videos(self, videos: Sequence[tuple[FinishedVideo, pa.Table]]) -> list[VideoCounts | None]:
        """Commit and finish videos of one segment together: one Delta commit for each table, each video exactly once.

        Their rows are added up in memory, so no data file is read; only those of a video that somebody else has
        committed come from the lake. May be killed and repeated, as ``commit_videos``.

        Args:
            videos: each with its observations, as for ``commit_segments``.

        Returns:
            What the rows of each add up to; None where it was finished before or is given twice.
        """
        parts: dict[Key, Segment] = {}
        finished: dict[Key, FinishedVideo] = {}
        for video, rows in videos:
            parts.setdefault(_key(video), Segment(video.analysis_id, video.video_id, 0, rows))
            finished.setdefault(_key(video), video)
        ours = self.commit_segments(list(parts.values()))
        rows_of_ours = {
            (video_id, analysis_id): conform(_fill_in(parts[video_id, analysis_id]), OBSERVATIONS.schema)
            for analysis_id, video_id, _ in ours
        }
        counts, new = self._finish(list(finished.values()), rows_of_ours)
        found: list[VideoCounts | None] = []
        for video, _ in videos:
            found.append(counts[_key(video)] if _key(video) in new else None)
            new.discard(_key(video))
        return found

    def commit_video(self, video: FinishedVideo) -> VideoCounts:
        """Finish one video; see ``commit_videos``."""
        return self.commit_videos([video])[0]

    def commit_videos(self, videos: Sequence[FinishedVideo]) -> list[VideoCounts]:
        """Write what the committed observations add up to and, last, ``videos``; each exactly once.

        May be killed at any moment and repeated: nothing is written twice and no view shows half a video.

        Raises:
            LakeError: a segment of a video is not committed (``incomplete``), or the lake cannot be read or written.
        """
        self._check_segments(videos)
        counts, _ = self._finish(videos, {})
        return [counts[_key(video)] for video in videos]

    def _check_segments(self, videos: Sequence[FinishedVideo]) -> None:
        names = {
            segment_transaction(video.analysis_id, video.video_id, segment): (segment, video)
            for video in videos
            for segment in range(video.n_segments)
        }
        for name in names.keys() - tables.committed(self.location, "observations", names):
            segment, video = names[name]
            message = f"segment {segment} of {video.path} (video_id {video.video_id}) is not committed yet"
            raise LakeError(message, "incomplete")

    def _finish(
        self, videos: Sequence[FinishedVideo], in_memory: Mapping[Key, pa.Table]
    ) -> tuple[dict[Key, VideoCounts], set[Key]]:
        """The counts of every video, and which of them this call finished; ``in_memory`` has rows of some of them."""
        version = tables.open_table(self.location, "observations").version()
        by_analysis: dict[str, list[FinishedVideo]] = {}
        for video in videos:
            by_analysis.setdefault(video.analysis_id, []).append(video)
        counts: dict[Key, VideoCounts] = {}
        new: set[Key] = set()
        for analysis_id, group in by_analysis.items():
            of_group, names = self._commit_analysis(analysis_id, group, version, in_memory)
            counts |= of_group
            new |= {_key(video) for video in group if _finish_transaction(video) in names}
        return counts, new

    def _commit_analysis(
        self, analysis_id: str, videos: Sequence[FinishedVideo], version: int, in_memory: Mapping[Key, pa.Table]
    ) -> tuple[dict[Key, VideoCounts], set[str]]:
        limits = SeamLimits.of(videos[0].settings)  # one analysis has one faces_id, so one
        with read_errors(self.location), shared_connection() as con:
            self._make_observations(con, analysis_id, [video.video_id for video in videos], in_memory)
            pieces, row_counts = sum_track_pieces(con, limits), count_rows(con)
            summed = {"seconds": sum_seconds(con, pieces), "spans": sum_spans(con, pieces)}
        counts, tracks_of, video_of = {}, {}, {}
        summed_of: dict[str, dict[str, pa.Table]] = {name: {} for name in summed}
        for video in videos:
            transaction = _finish_transaction(video)
            own = pieces.filter(pc.equal(pieces["video_id"], video.video_id))
            tracks_of[transaction] = own.append_column("faces_id", pa.repeat(video.faces_id, len(own)))
            for name, rows in summed.items():
                summed_of[name][transaction] = rows.filter(pc.equal(rows["video_id"], video.video_id))
            found = _counts(video, row_counts, n_tracks=pc.count_distinct(own["track_id"]).as_py())
            counts[_key(video)] = found
            video_of[transaction] = _video_row(video, found, version)
        tables.append_once(self.location, "tracks", tracks_of)
        for name, parts in summed_of.items():
            tables.append_once(self.location, name, parts)
        return counts, tables.append_once(self.location, "videos", video_of)

    def _make_observations(
        self, con: Connection, analysis_id: str, video_ids: Sequence[str], in_memory: Mapping[Key, pa.Table]
    ) -> None:
        """Make the view ``observations`` of some videos' rows: those in memory, and the lake's of the others."""
        held = [in_memory[video_id, analysis_id] for video_id in video_ids if (video_id, analysis_id) in in_memory]
        stored = [video_id for video_id in video_ids if (video_id, analysis_id) not in in_memory]
        sources = []
        if held:
            con.register("in_memory", tables.as_stored(OBSERVATIONS, pa.concat_tables(held)))
            sources.append("FROM in_memory")
        if stored:
            source = relation_sql(self.location, "observations", analysis_id=analysis_id, video_ids=stored)
            listed = ", ".join(map(quote, stored))
            sources.append(
                f"SELECT * FROM ({source}) WHERE analysis_id = {quote(analysis_id)} AND video_id IN ({listed})"
            )
        con.execute(f"CREATE TEMP VIEW observations AS {' UNION ALL '.join(sources)}")

    def append_run(self, manifest: RunManifest, outcomes: Sequence[VideoOutcome]) -> bool:
        """Write what a run did, one row per path; False where the run of that run_id is there already."""
        version = tables.open_table(self.location, "runs").version()
        of_run = {
            "run_id": manifest.run_id,
            "model_id": manifest.model_id,
            "started_utc": manifest.started_utc,
            "finished_utc": manifest.finished_utc,
            "device": manifest.device,
            "program_version": manifest.program_version,
            "code_revision": manifest.code_revision,
            "manifest": canonical_json({"config": manifest.config, "library_versions": manifest.library_versions}),
            "lake_version": version,
        }
        rows = [{**asdict(outcome), "path": path_text(outcome.path), **of_run} for outcome in outcomes]
        table = pa.Table.from_pylist(rows, schema=TABLES["runs"].schema)
        return bool(tables.append_once(self.location, "runs", {manifest.run_id: table}))

    def append(self, table: str, rows: pa.Table, *, transaction: str) -> bool:
        """Append rows to ``labels``, ``edits``, ``embeddings``, ``models`` or ``drift`` once, by transaction name."""
        if table not in ("labels", "edits", "embeddings", "models", "drift"):
            raise ValueError(f"rows of {table} are written by their own commits")
        return bool(tables.append_once(self.location, table, {transaction: rows}))

    def compact(self) -> dict[str, tuple[int, int]]:
        """Rewrite many small files as few, so that queries stay fast; no view changes.

        May run beside readers and writers and be killed at any moment.

        Returns:
            Table to number of data files before and after.
        """
        return {name: tables.compact(self.location, name) for name in TABLES}

    # -- look up --------------------------------------------------------------------------------------------------

    def done_segments(self, analysis_id: str, video_id: str, n_segments: int) -> set[int]:
        """Which of a video's segments are committed."""
        names = {segment_transaction(analysis_id, video_id, segment): segment for segment in range(n_segments)}
        return {names[name] for name in tables.committed(self.location, "observations", names)}

    def finished_videos(self, faces_id: str) -> dict[str, set[str]]:
        """video_ids that are finished with the same faces, by analysis; one read, for many videos."""
        sql = f"SELECT analysis_id, video_id FROM ({relation_sql(self.location, 'videos')}) WHERE faces_id = ?"
        found: dict[str, set[str]] = {}
        for row in self._read(sql, [faces_id]).to_pylist():
            found.setdefault(row["analysis_id"], set()).add(row["video_id"])
        return found

    def done_videos(self, analysis_id: str) -> set[str]:
        """video_ids that are finished in an analysis; one read, for whole folders."""
        sql = f"SELECT video_id FROM ({relation_sql(self.location, 'videos')}) WHERE analysis_id = ?"
        return {row["video_id"] for row in self._read(sql, [analysis_id]).to_pylist()}

    def done_streams(self, analysis_id: str) -> dict[str, tuple[dict[int, str], int]]:
        """By content, the video_ids of the streams that are finished in an analysis, and how many the file has."""
        columns = "video_id, stream, n_streams"
        sql = f"SELECT {columns} FROM ({relation_sql(self.location, 'videos')}) WHERE analysis_id = ?"
        found: dict[str, tuple[dict[int, str], int]] = {}
        for row in self._read(sql, [analysis_id]).to_pylist():
            streams, _ = found.setdefault(content_of_video(row["video_id"]), ({}, row["n_streams"]))
            streams[row["stream"]] = row["video_id"]
        return found

    def known_files(self, files: Iterable[tuple[_P, int, int]]) -> dict[_P, str]:
        """Which of (path, size_bytes, mtime_ns) were hashed before: path to video_id without stream, in one read.

        A path counts only with equal size and modification time. Give paths as they are given to runs (absolute).
        """
        files = list(files)
        if not files:
            return {}
        columns = "path, size_bytes, mtime_ns, video_id"
        runs, videos = (relation_sql(self.location, name) for name in ("runs", "videos"))
        sql = f"SELECT {columns} FROM ({runs}) UNION ALL SELECT {columns} FROM ({videos})"
        wanted = {(path_text(path), size, mtime): path for path, size, mtime in files}
        rows = self._read(
            f"SELECT DISTINCT * FROM ({sql}) WHERE video_id IS NOT NULL AND path IN ?", [[k[0] for k in wanted]]
        )
        found = ((wanted.get((r["path"], r["size_bytes"], r["mtime_ns"])), r["video_id"]) for r in rows.to_pylist())
        return {path: content_of_video(video_id) for path, video_id in found if path is not None}

    def stored_faces(self, faces_id: str, video_id: str) -> pa.Table | None:
        """Every row of a finished analysis with the same faces, by frame and face, without what a model gave.

        Returns:
            ``FACE_COLUMNS`` of observations, with frames without a face; None where no such analysis is finished.
        """
        sql = f"SELECT analysis_id FROM ({relation_sql(self.location, 'videos', video_ids=[video_id])})"
        sql += " WHERE video_id = ? AND faces_id = ? ORDER BY lake_version DESC, analysis_id LIMIT 1"
        finished = self._read(sql, [video_id, faces_id]).to_pylist()
        if not finished:
            return None
        analysis_id = finished[0]["analysis_id"]
        source = relation_sql(self.location, "observations", analysis_id=analysis_id, video_ids=[video_id])
        rows = self._read(
            f"SELECT {', '.join(FACE_COLUMNS)} FROM ({source}) WHERE analysis_id = ? AND video_id = ?"
            " ORDER BY segment, frame_index, face_index",
            [analysis_id, video_id],
        )
        return rows.cast(pa.schema([OBSERVATIONS.schema.field(name) for name in FACE_COLUMNS]))

    def _read(self, sql: str, values: Sequence[Any]) -> pa.Table:
        with read_errors(self.location), shared_connection() as con:
            return rows_of(con, sql, values)


def _fill_in(part: Segment) -> pa.Table:
    rows = part.observations
    keys: Mapping[str, Any] = {
        "analysis_id": part.analysis_id,
        "video_id": part.video_id,
        "segment": pa.scalar(part.segment, pa.int32()),
    }
    kept = rows.drop_columns([name for name in keys if name in rows.column_names])
    for name, value in keys.items():
        kept = kept.append_column(name, pa.repeat(value, len(rows)))
    return kept


def _counts(video: FinishedVideo, row_counts: dict[Key, dict[str, int]], n_tracks: int) -> VideoCounts:
    none = dict.fromkeys(("n_frames", "n_frames_with_face", "n_frames_undecodable", "n_faces"), 0)
    counts = row_counts.get(_key(video), none)
    code, message = video.code, video.message
    if counts["n_frames_undecodable"] and not code:
        unreadable = f"{counts['n_frames_undecodable']} of {counts['n_frames']} frames could not be read"
        code, message = "frames_undecodable", "; ".join(filter(None, [unreadable, message]))
    return VideoCounts("partial" if code else "ok", code, message, n_tracks=n_tracks, **counts)


def _video_row(video: FinishedVideo, counts: VideoCounts, version: int) -> pa.Table:
    row = {**asdict(video), **asdict(counts), "lake_version": version}
    row |= {"path": path_text(video.path), "settings": canonical_json(video.settings)}
    return pa.Table.from_pylist([row], schema=TABLES["videos"].schema)
