"""The log of a Delta table: what happened to it, and a new beginning that keeps rows and drops history.

A log only grows: a transaction name stays in it for good, and with it the video_id inside. To do a video again, or to
forget it, its names have to go. That is no operation of Delta's; it is done here with Delta's own means, a commit of
nothing and a checkpoint, from which lines are left out before everything older is deleted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties

from storage.delta.object_store import ObjectPath, StoragePath, replace_bytes
from storage.delta.tables import lake_errors, open_table
from storage.schema import TABLES

__all__ = ["Change", "history", "log_folder", "rewrite_log"]

#: Name under which a commit says what it was for, where Delta's own word does not.
_WHY = "reason"
_VERSION = re.compile(r"(\d{20})\.")


@dataclass(frozen=True)
class Change:
    """One version of one table; ``n_rows`` were added by it, None where the log does not say."""

    when_utc: datetime
    table: str
    version: int
    operation: str
    n_rows: int | None


def log_folder(location: StoragePath, name: str) -> StoragePath:
    """Where the log of a table is."""
    return location / TABLES[name].place / "_delta_log"


def history(location: StoragePath, *, limit: int | None = None) -> list[Change]:
    """What was done to the tables of a lake, latest first; as far back as their logs go."""
    changes = []
    for name in TABLES:
        table = open_table(location, name)
        with lake_errors(location, f"reading the history of {name} of"):
            entries = table.history(limit)
        for entry in entries:
            operation = entry.get(_WHY) or entry["operation"].lower()
            metrics = entry.get("operationMetrics") or {}
            n_rows = metrics.get("num_added_rows", metrics.get("num_output_rows"))
            when = datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
            changes.append(Change(when, name, entry["version"], operation, _count(n_rows)))
    changes.sort(key=lambda change: (change.when_utc, change.table, change.version), reverse=True)
    return changes[:limit]


def _count(value: object) -> int | None:
    return int(str(value)) if value is not None else None


def rewrite_log(location: StoragePath, name: str, drop: Callable[[str], bool], *, forget_removed: bool = False) -> None:
    """Begin the log of a table anew at its next version: rows stay, earlier versions cannot be asked for any more.

    May be killed at any moment and repeated: until the last old line is gone, the table reads as it did or as it will.
    Nobody else may do such work meanwhile: hold an exclusive ``storage.delta.tables.lock``. On a disk that keeps
    writers out, too; in an object store ``storage.delta.fence`` does.

    Args:
        location: the lake.
        name: the table.
        drop: whether to leave out a transaction, by its name, so that it can be committed again.
        forget_removed: also leave out the names of files that are no longer part of the table.
    """
    from storage.delta.fence import put_fence, write_tombstones

    if isinstance(location, ObjectPath):
        put_fence(location, name)
    table = open_table(location, name)
    with lake_errors(location, f"rewriting the log of {name} of"):
        table.create_write_transaction(  # of nothing: the last entry has to stay
            [],
            "append",
            table.schema(),
            partition_by=list(TABLES[name].partition_by),
            commit_properties=CommitProperties(custom_metadata={_WHY: "log begun anew"}),
        )
        table.update_incremental()
        version = table.version()
        table.create_checkpoint()
        folder = log_folder(location, name)
        checkpoint = folder / f"{version:020d}.checkpoint.parquet"
        lines = pq.read_table(pa.BufferReader(checkpoint.read_bytes()))
        keep = [
            not ((line["txn"] and drop(line["txn"]["appId"])) or (forget_removed and line["remove"]))
            for line in lines.select(["txn", "remove"]).to_pylist()
        ]
        fresh = pa.BufferOutputStream()
        pq.write_table(lines.filter(pa.array(keep, pa.bool_())), fresh, compression="zstd")
        content = fresh.getvalue().to_pybytes()
        replace_bytes(checkpoint, content)
        pointer = {"version": version, "size": sum(keep), "sizeInBytes": len(content)}
        replace_bytes(folder / "_last_checkpoint", json.dumps(pointer).encode())
    if isinstance(location, ObjectPath):
        write_tombstones(location, name, version)
    else:
        _delete_entries(location, name, version)


def _delete_entries(location: Path, name: str, before: int) -> None:
    with lake_errors(location, f"clearing the log of {name} of"):
        for entry in sorted((location / TABLES[name].place / "_delta_log").iterdir()):
            found = _VERSION.match(entry.name)
            if entry.is_file() and ((found and int(found[1]) < before) or entry.name.startswith((".", "_commit_"))):
                entry.unlink()
