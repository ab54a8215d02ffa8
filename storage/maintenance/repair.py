"""Take what is broken out of a lake, so that views are right again and the next analysis fills the gap."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

from storage.delta.log import rewrite_log
from storage.delta.object_store import move, relative_text
from storage.delta.relations import quote, read_errors, relation_sql, rows_of, shared_connection
from storage.delta.tables import lake_errors, lock, open_table, writer_properties
from storage.lake import Lake
from storage.maintenance.check import DERIVED, BrokenFile, Key, LakeCheck, check_lake, examine
from storage.records import FinishedVideo
from storage.schema import TABLES

__all__ = ["repair_lake"]

#: Where broken files are kept, inside the lake, for whoever can rescue something from them.
DAMAGED = "damaged"
_KEYS_PER_DELETE = 100
_SUMMARIES = ("tracks", "seconds", "spans")


def repair_lake(lake: Lake) -> list[str]:
    """Take broken files and the videos in them out of the lake.

    Observations that are lost take their video out of every table, with its transaction names, so that the next
    analysis does it again. Tracks, seconds and spans are summed again from observations. Judgements and edits by
    people cannot be made again: the answer says which files held some. Broken files go to the folder ``damaged``. May
    be killed and repeated; waits for writers and keeps them waiting.

    Returns:
        What was done, a sentence each; empty where nothing was wrong.

    Raises:
        LakeError: a log is broken, or the lake cannot be written.
    """
    with lock(lake.location, exclusive=True):
        found = examine(lake)
        done = list(_take_out(lake, found))
    again = _sum_again(lake)
    return done + ([f"tracks, seconds and spans of {again} videos were summed again"] if again else [])


def _take_out(lake: Lake, found: LakeCheck) -> Iterator[str]:
    redo = {(fault.video_id, fault.analysis_id) for fault in found.videos if fault.table == "observations"}
    begun = {key for key in found.unfinished if _is_hit(found, "observations", key)}
    lost = {(fault.video_id, fault.analysis_id) for fault in found.videos if fault.table == "videos"}
    for name in sorted(DERIVED, key=lambda name: name != "videos"):  # first hide a video, then take it apart
        out = redo | begun
        if name in _SUMMARIES:
            out |= {(fault.video_id, fault.analysis_id) for fault in found.videos if fault.table == name}
        if name == "videos":
            out |= lost
        broken = [file for file in found.files if file.table == name]
        if out or broken:
            _drop_videos(lake, found, name, out, broken)
        yield from (f"{file} and was put into {DAMAGED}/" for file in broken)
    for name in ("runs", "labels", "edits", "embeddings", "drift"):
        broken = [file for file in found.files if file.table == name]
        if broken:
            _put_aside(lake, broken)
        yield from (
            f"{file}; its rows are lost unless you restore it from a copy, it is in {DAMAGED}/" for file in broken
        )
    yield from (
        f"{file}; not repaired, because it says which models there are: restore it from a copy"
        for file in found.files
        if file.table == "models"
    )
    yield from (f"{fault}; not repaired" for fault in found.others)
    if redo | begun | lost:
        yield f"{len(redo | begun | lost)} videos were taken out; analyse their folder again to have them back"


def _is_hit(found: LakeCheck, table: str, key: Key) -> bool:
    return any(file.table == table and file.may_hold(key) for file in found.files)


def _drop_videos(lake: Lake, found: LakeCheck, name: str, out: Collection[Key], broken: Collection[BrokenFile]) -> None:
    """Names first, then files, then rows: killed in between, a check still sees that something is wrong."""

    def drop(transaction: str) -> bool:
        analysis_id, _, rest = transaction.partition("/")
        key = rest.partition("/")[0], analysis_id
        # of what is not finished nobody knows how much of it was in a broken file
        return key in out or (key not in found.finished and any(file.may_hold(key) for file in broken))

    rewrite_log(lake.location, name, drop)
    _put_aside(lake, broken)
    keys = sorted(
        key for key in _keys_in(lake, name) if key in out or (key not in found.finished and _any(broken, key))
    )
    for first in range(0, len(keys), _KEYS_PER_DELETE):
        some = keys[first : first + _KEYS_PER_DELETE]
        rows = " OR ".join(f"(analysis_id = {quote(a)} AND video_id = {quote(v)})" for v, a in some)
        with lake_errors(lake.location, f"deleting rows of {name} of"):
            open_table(lake.location, name).delete(rows, writer_properties=writer_properties(TABLES[name]))


def _any(broken: Collection[BrokenFile], key: Key) -> bool:
    return any(file.may_hold(key) for file in broken)


def _keys_in(lake: Lake, name: str) -> set[Key]:
    with read_errors(lake.location), shared_connection() as con:
        sql = f"SELECT DISTINCT video_id, analysis_id FROM ({relation_sql(lake.location, name)})"
        return {(row["video_id"], row["analysis_id"]) for row in rows_of(con, sql).to_pylist()}


def _put_aside(lake: Lake, broken: Collection[BrokenFile]) -> None:
    """Move files out of a table and tell its log that they are gone."""
    for file in broken:
        aside = lake.location / DAMAGED / relative_text(file.path, lake.location)
        with lake_errors(lake.location, "repairing"):
            if file.path.exists():
                move(file.path, aside)
    for name in {file.table for file in broken}:
        with lake_errors(lake.location, f"repairing {name} of"):
            open_table(lake.location, name).repair(dry_run=False)


def _sum_again(lake: Lake) -> int:
    """Commit tracks, seconds and spans again for finished videos that lack theirs; returns for how many."""
    lacking = {(f.video_id, f.analysis_id) for f in check_lake(lake).videos if f.table in _SUMMARIES}
    if not lacking:
        return 0
    with read_errors(lake.location), shared_connection() as con:
        rows = rows_of(con, relation_sql(lake.location, "videos")).to_pylist()
    videos = [_finished(row) for row in rows if (row["video_id"], row["analysis_id"]) in lacking]
    lake.commit_videos(videos)
    return len(videos)


def _finished(row: dict[str, Any]) -> FinishedVideo:
    names = FinishedVideo.__dataclass_fields__
    known = {name: value for name, value in row.items() if name in names}
    return FinishedVideo(**{**known, "settings": json.loads(row["settings"])})
