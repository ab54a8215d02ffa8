"""Keeps writers out of a table in an object store, where they hold no lock.

Taking old versions of a log away is no operation of Delta's, and a writer that still looks at one could commit where
nobody will look. On a disk a lock of the kernel prevents that (``storage.delta.tables.lock``). A store has none, and a
lease that runs out cannot stop who was asleep. So the commits themselves are used:

- A *fence* is a commit that changes the table's metadata. Delta Lake refuses every commit whose writer looked at an
  earlier version, whatever it wanted to write; ours looks again then (``append_once``, ``compact``).
- What is older than the fence and in no version any more can be deleted: its writer cannot commit it.
- Entries of the log that are to go are not deleted but become *tombstones*: they are overwritten by a change of the
  metadata. Their names stay taken, so that a conditional put finds them in its way, and its conflict check finds the
  fence.
"""

from __future__ import annotations

import json
import re
import uuid

from storage.delta.object_store import ObjectPath, relative_text
from storage.delta.tables import KEEP_DAYS, lake_errors, open_table
from storage.schema import TABLES

__all__ = ["purge", "put_fence", "write_tombstones"]

_PROPERTY = "mfer.fence"
_ENTRY = re.compile(r"(\d{20})\.")


def put_fence(location: ObjectPath, name: str) -> tuple[int, int]:
    """Commit a fence; returns its version, and when that was by the store's clock, in nanoseconds."""
    with lake_errors(location, f"fencing {name} of"):
        table = open_table(location, name)
        table.alter.set_table_properties({_PROPERTY: uuid.uuid4().hex}, raise_if_not_exists=False)
        version = table.version()
        return version, _entry(location, name, version).stat().st_mtime_ns


def _entry(location: ObjectPath, name: str, version: int) -> ObjectPath:
    return location / TABLES[name].place / "_delta_log" / f"{version:020d}.json"


def purge(location: ObjectPath, name: str) -> None:
    """Delete every data file that the newest version does not name, unless its writer may still commit it."""
    _, fenced_ns = put_fence(location, name)
    table = open_table(location, name)
    with lake_errors(location, f"deleting files of {name} of"):
        removed = set(table.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False))
        kept = set(table.get_add_actions(flatten=True)["path"].to_pylist())
        place = location / TABLES[name].place
        for file in place.files():
            path = relative_text(file, place)
            if path.startswith("_delta_log/") or path in kept:
                continue
            # a store tells whole seconds: of the fence's own second nobody knows which was first
            if path in removed or file.stat().st_mtime_ns < fenced_ns:
                file.unlink()


def write_tombstones(location: ObjectPath, name: str, version: int) -> None:
    """Take the contents of a log's entries before a version away, and keep their names.

    Tombstones that are old enough are deleted: nobody looks at those any more.
    """
    with lake_errors(location, f"clearing the log of {name} of"):
        folder = location / TABLES[name].place / "_delta_log"
        now_ns = _entry(location, name, version).stat().st_mtime_ns
        metadata = open_table(location, name).metadata()
        tombstone = json.dumps({"metaData": {
            "id": str(metadata.id),
            "name": metadata.name,
            "description": metadata.description,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": open_table(location, name).schema().to_json(),
            "partitionColumns": list(metadata.partition_columns),
            "configuration": dict(metadata.configuration),
            "createdTime": metadata.created_time,
        }}).encode() + b"\n"  # fmt: skip
        for entry in folder.files():
            found = _ENTRY.match(entry.name)
            if not found or int(found[1]) >= version:
                continue
            is_commit = entry.name == f"{found[1]}.json"
            if is_commit and entry.stat().st_mtime_ns > now_ns - KEEP_DAYS * 86_400 * 10**9:
                entry.write_bytes(tombstone)
            elif not is_commit or _is_tombstone(entry):
                entry.unlink()
            else:
                entry.write_bytes(tombstone)


def _is_tombstone(entry: ObjectPath) -> bool:
    lines = entry.read_bytes().splitlines()
    return len(lines) == 1 and b'"metaData"' in lines[0]
