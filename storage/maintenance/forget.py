"""Erase a video from every version of every table, and look into every file to see that nothing of it is left."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import write_deltalake

from storage.delta.fence import purge
from storage.delta.log import rewrite_log
from storage.delta.object_store import ObjectPath, StoragePath, place_of, relative_text, remove_tree
from storage.delta.relations import quote, read_errors, relation_sql, rows_of, shared_connection
from storage.delta.tables import lake_errors, lock, open_table, writer_properties
from storage.errors import LakeError
from storage.identity import composed, content_of_video, path_text
from storage.lake import Lake
from storage.maintenance.repair import DAMAGED
from storage.schema import TABLES

__all__ = ["Forgotten", "forget_embeddings", "forget_video", "search_files", "what_would_go"]

_ID = re.compile(r"[0-9a-f]{16}(-v\d+)?")
_REDACTED = "(forgotten)"
#: Tables with rows about videos; last those that know both path and video_id: who was killed can ask for either again.
_TABLES = ("embeddings", "observations", "tracks", "seconds", "spans", "labels", "edits", "videos", "runs")


@dataclass(frozen=True)
class Forgotten:
    """What was erased: rows by table. ``left`` names files in which something of it can still be found: none."""

    video_ids: tuple[str, ...]
    paths: tuple[str, ...]
    n_rows: dict[str, int]
    n_files_searched: int
    left: tuple[str, ...]


def forget_video(lake: Lake, video: str | Path) -> Forgotten:
    """Erase every row about a video, from observations to runs, labels, edits and embeddings, and traces in the logs.

    Delta keeps older versions so that they can be asked for; here they go, for all tables with rows about videos, with
    the files that nothing else needs. Waits for writers and keeps them waiting; in an
    object store writers have to look again instead (``storage.delta.fence``). May be killed and repeated. A query
    that runs meanwhile may have to be run again.

    Args:
        lake: the lake.
        video: its path as it was analysed, which stands for all contents that the lake knows under that path; or a
            video_id, which stands for all paths and streams of that content.

    Raises:
        LakeError: ``unknown_video`` where nothing is known of it, or what reading and writing the lake can raise.
    """
    with lock(lake.location, exclusive=True):
        video_ids, paths, kept = _resolve(lake, str(video))
        remove_tree(lake.location / DAMAGED)  # what cannot be read cannot be searched
        n_rows = {}
        for name in _TABLES:
            n_rows[name] = _erase(lake, name, video_ids, paths)
            _erase_traces(lake, name, video_ids)
        n_files, left = search_files(lake.location, [*video_ids, *paths], kept)
    return Forgotten(tuple(sorted(video_ids)), tuple(sorted(paths)), n_rows, n_files, tuple(left))


def what_would_go(lake: Lake, video: str | Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The video_ids and paths that ``forget_video`` would erase; it raises the same errors."""
    video_ids, paths, _ = _resolve(lake, str(video))
    return tuple(sorted(video_ids)), tuple(sorted(paths))


def forget_embeddings(lake: Lake, video_ids: Collection[str] | None = None) -> int:
    """Erase the embeddings of some videos, or all, from every version of their table; returns how many. See
    ``forget_video``."""
    with lock(lake.location, exclusive=True):
        if video_ids is None:
            with read_errors(lake.location), shared_connection() as con:
                rows = rows_of(con, f"SELECT DISTINCT video_id FROM ({relation_sql(lake.location, 'embeddings')})")
            video_ids = rows["video_id"].to_pylist()
        n_rows = _erase(lake, "embeddings", video_ids, ())
        _erase_traces(lake, "embeddings", video_ids)
    return n_rows


def _erase_traces(lake: Lake, name: str, video_ids: Collection[str]) -> None:
    """Delete files that nothing needs any more, and older versions of a table with their transactions of videos."""
    _delete_unused_files(lake, name)
    rewrite_log(
        lake.location,
        name,
        lambda transaction: any(video_id in transaction for video_id in video_ids),
        forget_removed=True,
    )


def _delete_unused_files(lake: Lake, name: str) -> None:
    if isinstance(lake.location, ObjectPath):
        purge(lake.location, name)
        return
    with lake_errors(lake.location, f"deleting files of {name} of"):
        open_table(lake.location, name).vacuum(
            retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True
        )


def _resolve(lake: Lake, video: str) -> tuple[set[str], set[str], set[str]]:
    """video_ids and paths to forget, and paths that stay."""
    sources = " UNION ".join(
        f"SELECT video_id, {path} AS path FROM ({relation_sql(lake.location, name)})"
        for name, path in (
            ("videos", "path"),
            ("runs", "path"),
            ("observations", "NULL"),
            ("labels", "NULL"),
            ("edits", "NULL"),
        )
    )
    with read_errors(lake.location), shared_connection() as con:
        known = rows_of(con, f"SELECT DISTINCT * FROM ({sources})").to_pylist()
    names = {path_text(video), path_text(place_of(video))}
    if not any(row["path"] in names for row in known):  # none is stored so; one may look the same
        names = {row["path"] for row in known if row["path"] and composed(row["path"]) in set(map(composed, names))}
    of_path = {row["video_id"] for row in known if row["path"] in names} - {None}
    contents = {content_of_video(video_id) for video_id in of_path} or {content_of_video(video)}
    video_ids = {row["video_id"] for row in known if row["video_id"] and content_of_video(row["video_id"]) in contents}
    paths = {row["path"] for row in known if row["path"] in names or row["video_id"] in video_ids} - {None}
    if not video_ids and not paths:
        if search_files(lake.location, names)[1]:  # left by one who was killed at the last table
            return {video} if _ID.fullmatch(video) else set(), names, set()
        hint = "SELECT DISTINCT path, video_id FROM runs"
        message = f'nothing is known of {video!r}; give a path or video_id as `mfer sql "{hint}"` shows them'
        raise LakeError(message, "unknown_video")
    others = {row["path"] for row in known if row["video_id"] not in video_ids and row["video_id"]} - {None}
    if not of_path:  # a path that also held other videos stays with those
        paths -= others
    return video_ids, paths, others - paths


def _erase(lake: Lake, name: str, video_ids: Collection[str], paths: Collection[str]) -> int:
    if name == "runs":
        return _erase_runs(lake, video_ids, paths)
    if not video_ids:
        return 0
    listed = ", ".join(quote(video_id) for video_id in sorted(video_ids))
    table = open_table(lake.location, name)
    with lake_errors(lake.location, f"deleting rows of {name} of"):
        done = table.delete(f"video_id IN ({listed})", writer_properties=writer_properties(TABLES[name]))
    return int(done["num_deleted_rows"] or 0)


def _erase_runs(lake: Lake, video_ids: Collection[str], paths: Collection[str]) -> int:
    """Delete the rows of a video, and its paths from what other rows say about how their run was started."""
    with read_errors(lake.location), shared_connection() as con:
        rows = rows_of(con, relation_sql(lake.location, "runs"))
    named = pc.or_(
        pc.is_in(rows["path"], pa.array(sorted(paths), pa.string())),
        pc.fill_null(pc.is_in(rows["video_id"], pa.array(sorted(video_ids), pa.string())), False),
    )
    kept = rows.filter(pc.invert(named))
    manifests = [_redact(text, [*video_ids, *paths]) for text in kept["manifest"].to_pylist()]
    if manifests == kept["manifest"].to_pylist() and len(kept) == len(rows):
        return 0
    position = kept.column_names.index("manifest")
    kept = kept.set_column(position, "manifest", pa.array(manifests, pa.string())).cast(TABLES["runs"].schema)
    with lake_errors(lake.location, "deleting rows of runs of"):
        write_deltalake(
            open_table(lake.location, "runs"),
            kept,
            mode="overwrite",
            writer_properties=writer_properties(TABLES["runs"]),
        )
    return len(rows) - len(kept)


def _redact(manifest: str | None, needles: Collection[str]) -> str | None:
    if manifest is None:
        return None

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return _REDACTED if value in needles or _same_file(value, needles) else value
        if isinstance(value, list):
            return [clean(item) for item in value]
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        return value

    before = json.loads(manifest)
    after = clean(before)
    return manifest if after == before else json.dumps(after, sort_keys=True, separators=(",", ":"))


def _same_file(text: str, needles: Collection[str]) -> bool:
    """Whether a text is the path in another form, such as ``./a/../film.mp4``, whose end is that of the path."""
    name = text.replace("\\", "/").rpartition("/")[2]
    return bool(name) and any(needle.rpartition("/")[2] == name for needle in needles)


def search_files(location: StoragePath, needles: Collection[str], kept: Collection[str] = ()) -> tuple[int, list[str]]:
    """Look for texts in every file of a lake: names, raw bytes, and the decoded values of every Parquet file.

    Args:
        location: the lake.
        needles: video_ids and paths.
        kept: texts that may stay and in which a needle may be found, such as ``/films/a.mp4.old`` for ``/films/a.mp4``.

    Returns:
        Number of files searched, and what was found where.
    """
    forms = {form for needle in needles for form in (needle, json.dumps(needle)[1:-1])}
    raw = {form for form in forms if not any(form in text or form in json.dumps(text) for text in kept)}
    n_files, left = 0, []
    for file in _files_in(location):
        n_files += 1
        hits = {form for form in raw if form in relative_text(file, location) or _in_bytes(file, form.encode())}
        if file.suffix == ".parquet":
            try:
                hits |= set(_in_values(file, forms, kept))
            except (OSError, pa.ArrowException) as error:
                left.append(f"{file} cannot be searched: {error}")
        left += [f"{file} still holds {form}" for form in sorted(hits)]
    return n_files, left


def _files_in(location: StoragePath) -> Iterator[StoragePath]:
    if isinstance(location, ObjectPath):
        yield from location.files()
    else:
        yield from sorted(path for path in location.rglob("*") if path.is_file())


def _in_bytes(file: StoragePath, needle: bytes) -> bool:
    if isinstance(file, ObjectPath):
        return needle in file.read_bytes()
    if file.stat().st_size == 0:
        return False
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(needle) >= 0


def _in_values(file: StoragePath, forms: Collection[str], kept: Collection[str]) -> Iterator[str]:
    with pq.ParquetFile(file if isinstance(file, Path) else file.open()) as parquet:
        for batch in parquet.iter_batches():
            for text in _texts(batch):
                yield from (form for form in forms if form in text and not (text in kept or form in kept))


def _texts(batch: pa.RecordBatch) -> Iterator[str]:
    """Every distinct text in a batch, however deep it is nested."""
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            yield from (text for text in pc.unique(column).to_pylist() if text is not None)
        elif pa.types.is_nested(field.type):
            yield from (json.dumps(value, default=str) for value in column.to_pylist() if value is not None)
