"""Which transaction names a Delta table holds, looked up together.

Delta's own lookup reads the log once for each name. For a hundred videos in one commit that would be a hundred times,
and in an object store each of them is several requests.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from storage.delta.object_store import ObjectPath, StoragePath

__all__ = ["names_among"]

_POINTER = "_last_checkpoint"
#: Entries of a log that are fetched from an object store side by side.
_N_REQUESTS = 16


class _UnusualLogError(Exception):
    """The log has a form that this project does not write; Delta's own lookup reads those too."""


def names_among(snapshot: DeltaTable, log: StoragePath, names: Collection[str]) -> set[str]:
    """Those of ``names`` that are committed in a snapshot; ``log`` is the folder of the table's log.

    Raises OSError and DeltaError where the log cannot be read.
    """
    if len(names) > 1:
        try:
            return _read(log, snapshot.version(), set(names))
        except _UnusualLogError:
            pass
    return {name for name in names if snapshot.transaction_version(name) is not None}


def _read(log: StoragePath, version: int, names: set[str]) -> set[str]:
    """From the last checkpoint and the entries after it, up to ``version``."""
    checkpoint = _checkpoint(log, version)
    found = set()
    if checkpoint is not None:
        held = _of_checkpoint(log / f"{checkpoint:020d}.checkpoint.parquet")
        found = set(held.filter(pc.is_in(held, pa.array(sorted(names), held.type))).to_pylist())
    first = 0 if checkpoint is None else checkpoint + 1
    entries = [log / f"{number:020d}.json" for number in range(first, version + 1)]
    for text in _texts(entries):
        found |= names.intersection(_of_entry(text))
    return found


def _checkpoint(log: StoragePath, version: int) -> int | None:
    """The version of the last checkpoint; None where there is none yet."""
    try:
        pointer = json.loads((log / _POINTER).read_bytes())
        found = int(pointer["version"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise _UnusualLogError from None
    if pointer.get("parts") or pointer.get("v2Checkpoint") or found > version:
        raise _UnusualLogError
    return found


def _of_checkpoint(file: StoragePath) -> pa.ChunkedArray:
    try:
        lines = pq.read_table(pa.BufferReader(file.read_bytes()), columns=["txn"])
        return pc.struct_field(lines["txn"], "appId").drop_null()
    except (FileNotFoundError, pa.ArrowException, KeyError):
        raise _UnusualLogError from None


def _texts(entries: list[StoragePath]) -> Iterator[str]:
    try:
        if entries and isinstance(entries[0], ObjectPath):
            with ThreadPoolExecutor(_N_REQUESTS) as pool:
                yield from pool.map(lambda entry: entry.read_text(encoding="utf-8"), entries)
        else:
            yield from (entry.read_text(encoding="utf-8") for entry in entries)
    except FileNotFoundError:  # cleared away by somebody's maintenance
        raise _UnusualLogError from None


def _of_entry(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if '"txn"' in line and (transaction := json.loads(line).get("txn")):
            yield transaction["appId"]
